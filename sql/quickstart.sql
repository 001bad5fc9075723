-- A clickstream with retries, rows out of order, late rows and a hot post, made up from a seed:
-- every click must reach the table once. Run it twice, or kill it and run it again.

CREATE UNBOUNDED EXTERNAL TABLE clicks (
  event_id VARCHAR NOT NULL,
  user_id BIGINT,
  post_id BIGINT,
  kind VARCHAR,
  amount DOUBLE,
  event_time TIMESTAMP,
  WATERMARK FOR event_time AS event_time - INTERVAL '30 seconds'
) STORED AS GENERATOR OPTIONS ('rows' '1000000', 'duplicate_percent' '5', 'late_percent' '0.1');

CREATE EXTERNAL TABLE unique_clicks (
  event_id VARCHAR NOT NULL,
  post_id BIGINT,
  kind VARCHAR,
  amount DOUBLE,
  event_time TIMESTAMP,
  PRIMARY KEY (event_id)
) STORED AS DELTA LOCATION 'target/quickstart/unique_clicks';

INSERT INTO unique_clicks
SELECT event_id, post_id, kind, amount, event_time
FROM clicks DEDUP BY event_id WITHIN INTERVAL '1 hour'
WHERE kind <> 'share';
