-- Sample orders of November.
-- param: count int = 1000
INSERT INTO orders (placed_on, total_cents)
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
SELECT date('2026-11-01', (n % 30) || ' days'), 500 + n * 7 % 9000 FROM numbers;
