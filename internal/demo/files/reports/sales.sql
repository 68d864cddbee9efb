-- Orders by day.
-- param: since date
SELECT placed_on, count(*) AS orders, sum(total_cents) / 100.0 AS total
FROM orders
WHERE placed_on >= :since
GROUP BY placed_on
ORDER BY placed_on;
