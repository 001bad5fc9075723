-- Clicks with retries: the same id within ten minutes is the same click.
CREATE VIEW clicks AS
SELECT * FROM (VALUES
  ('a', 'home',  TIMESTAMP '2024-05-01 12:00:00'),
  ('a', 'home',  TIMESTAMP '2024-05-01 12:09:59'),  -- a retry, one second inside the window
  ('a', 'home',  TIMESTAMP '2024-05-01 12:10:00'),  -- ten minutes after the first: a new click
  ('b', 'about', TIMESTAMP '2024-05-01 12:00:30'),
  ('b', 'about', TIMESTAMP '2024-05-01 12:00:30'),  -- delivered twice
  (NULL, 'home', TIMESTAMP '2024-05-01 12:01:00'),  -- without an id nothing is a duplicate
  (NULL, 'home', TIMESTAMP '2024-05-01 12:01:00')
) AS v(id, page, at);

CREATE VIEW unique_clicks AS
SELECT * FROM clicks DEDUP BY id WITHIN INTERVAL '10 minutes' OF at;

SELECT * FROM unique_clicks ORDER BY at, id;

SELECT page, count(*) AS clicks FROM unique_clicks GROUP BY page ORDER BY page;

EXPLAIN SELECT * FROM clicks DEDUP BY id WITHIN INTERVAL '10 minutes' OF at;
