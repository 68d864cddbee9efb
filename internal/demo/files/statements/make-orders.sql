-- The table of the sample data.
CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, placed_on TEXT NOT NULL, total_cents INTEGER NOT NULL);
