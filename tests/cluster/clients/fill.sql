-- What a dump carries: objects of many kinds, and contents that something on the way could trip over.
CREATE SCHEMA shop;
COMMENT ON SCHEMA shop IS 'for dumps; it''s "quoted" \ and 猫';
CREATE TYPE shop.state AS ENUM ('new', 'sent', 'it''s "lost"');
CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0);
CREATE TYPE shop.pair AS (l int, r text);
CREATE SEQUENCE shop.tickets INCREMENT 7 START 21 CYCLE MAXVALUE 1000;

CREATE FUNCTION shop.double(n int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT 2 * n $$;
CREATE TABLE shop.goods (
    id bigint GENERATED ALWAYS AS IDENTITY (START 1000) PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    state shop.state NOT NULL DEFAULT 'new',
    n shop.positive,
    twice int GENERATED ALWAYS AS (n * 2) STORED,
    pair shop.pair,
    ticket int DEFAULT nextval('shop.tickets'),
    data bytea,
    tags text[],
    doc jsonb,
    at timestamptz,
    price numeric(30, 10),
    span int4range,
    address inet,
    place point,
    id2 uuid UNIQUE
);
INSERT INTO shop.goods (name, state, n, pair, data, tags, doc, at, price, span, address, place, id2)
SELECT
    (ARRAY['plain', E'tab\tnew\nline\r', '\.', '\N', 'it''s "quoted"', 'naïve 猫 🐈', E'back\\slash', ' '])[1 + i % 8],
    (enum_range(NULL::shop.state))[1 + i % 3],
    nullif(i, 13),
    ROW(i, CASE WHEN i % 5 = 0 THEN NULL ELSE 'r"' || i END)::shop.pair,
    decode(md5(i::text), 'hex') || '\x00ff'::bytea,
    CASE WHEN i % 7 = 0 THEN NULL ELSE ARRAY['a,b', NULL, '{}', i::text] END,
    jsonb_build_object('i', i, 'null', NULL, 'text', E'\u00e9\n'),
    timestamptz '2001-02-03 04:05:06.789+00' + i * interval '1 day 1 microsecond',
    i::numeric / 7,
    int4range(i, i + 10),
    '10.0.0.0'::inet + i,
    point(i, -i / 3.0),
    md5(i::text)::uuid
FROM generate_series(1, 3000) i;
CREATE INDEX ON shop.goods (lower(name)) WHERE state <> 'sent';
CREATE STATISTICS shop.related ON n, price FROM shop.goods;
COMMENT ON COLUMN shop.goods.n IS 'never 13';

CREATE TABLE shop.visits (at date NOT NULL, good bigint REFERENCES shop.goods, said text COMPRESSION pglz) PARTITION BY RANGE (at);
CREATE TABLE shop.visits_old PARTITION OF shop.visits FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE shop.visits_new PARTITION OF shop.visits DEFAULT;
INSERT INTO shop.visits SELECT date '2019-12-01' + i, 1000 + i, repeat('v', i) FROM generate_series(0, 99) i;

CREATE VIEW shop.latest AS SELECT name, max(at) AS at FROM shop.goods GROUP BY name;
CREATE MATERIALIZED VIEW shop.counted AS SELECT state, count(*) AS n FROM shop.goods GROUP BY state;
CREATE FUNCTION shop.noted() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.said := coalesce(NEW.said, '') || $in$ noted $in$;
    RETURN NEW;
END
$body$;
CREATE TRIGGER noted BEFORE INSERT ON shop.visits FOR EACH ROW EXECUTE FUNCTION shop.noted();
CREATE PROCEDURE shop.tidy(days int DEFAULT 30) LANGUAGE sql AS $$ DELETE FROM shop.visits WHERE at < now() - days * interval '1 day' $$;
CREATE AGGREGATE shop.product(int) (SFUNC = int4mul, STYPE = int, INITCOND = '1');
CREATE OPERATOR shop.@@@ (LEFTARG = text, RIGHTARG = text, FUNCTION = textcat);
CREATE RULE no_delete AS ON DELETE TO shop.latest DO INSTEAD NOTHING;
ALTER TABLE shop.goods ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON shop.goods FOR SELECT TO PUBLIC USING (state <> 'new');
GRANT SELECT (name), UPDATE (name) ON shop.goods TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO PUBLIC;

SELECT lo_from_bytea(424242, decode(repeat('00ff27', 100000), 'hex')), lo_from_bytea(424243, '') \g /dev/null
COMMENT ON LARGE OBJECT 424242 IS 'large';
ANALYZE;
