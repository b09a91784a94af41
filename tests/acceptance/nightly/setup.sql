-- A small shop, as the scripts find it at night: dead rows, an INVALID index, old partitions, two tenants.
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL, state text NOT NULL,
                          at timestamptz NOT NULL, amount numeric NOT NULL);
INSERT INTO shop.orders (customer, state, at, amount)
SELECT i % 500, (ARRAY['new', 'paid', 'sent'])[1 + i % 3], now() - i * interval '2 hours', i FROM generate_series(1, 6000) i;
CREATE INDEX orders_at ON shop.orders (at);
CREATE TABLE shop.orders_archive (LIKE shop.orders);
CREATE TABLE shop."Order Lines" (order_id bigint NOT NULL, line int NOT NULL, PRIMARY KEY (order_id, line));
INSERT INTO shop."Order Lines" SELECT id, 1 FROM shop.orders;
CREATE TABLE shop.sessions (id bigint PRIMARY KEY, seen timestamptz NOT NULL);
INSERT INTO shop.sessions SELECT i, now() - i * interval '1 hour' FROM generate_series(1, 2000) i;
DELETE FROM shop.sessions WHERE id % 4 = 0;
CREATE TABLE shop.events (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE shop.events_2024_01 PARTITION OF shop.events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE shop.events_2024_02 PARTITION OF shop.events FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE shop.events_now PARTITION OF shop.events FOR VALUES FROM ('2026-01-01') TO ('2099-01-01');
INSERT INTO shop.events VALUES ('2024-01-05', 'old'), ('2024-02-05', 'old'), ('2026-05-05', 'new');
CREATE MATERIALIZED VIEW shop.per_day AS SELECT at::date AS day, count(*) AS orders, sum(amount) AS amount FROM shop.orders GROUP BY 1;
CREATE UNIQUE INDEX ON shop.per_day (day);
CREATE MATERIALIZED VIEW shop.per_month AS SELECT date_trunc('month', day) AS month, sum(amount) AS amount FROM shop.per_day GROUP BY 1;
CREATE UNIQUE INDEX ON shop.per_month (month);
CREATE TABLE shop.twice (x int);
INSERT INTO shop.twice VALUES (1), (1);
CREATE TABLE shop.log (run text, what text, at timestamptz DEFAULT clock_timestamp());
CREATE SCHEMA tenant_one; CREATE TABLE tenant_one.counters (name text PRIMARY KEY, n int); INSERT INTO tenant_one.counters VALUES ('a', 1);
CREATE SCHEMA "tenant-two"; CREATE TABLE "tenant-two".counters (name text PRIMARY KEY, n int); INSERT INTO "tenant-two".counters VALUES ('a', 1);
