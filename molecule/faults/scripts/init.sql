-- Takes long enough for its host to be cut off in the middle.
CREATE TABLE IF NOT EXISTS faults (id int PRIMARY KEY, word text NOT NULL);
SELECT pg_sleep(3);
INSERT INTO faults VALUES (1, 'written before the host was cut off') ON CONFLICT DO NOTHING;
SELECT pg_sleep(6);
INSERT INTO faults VALUES (2, 'and after');
