-- A pipeline of libpq, for pgbench: all is sent before anything is answered.
\startpipeline
INSERT INTO lined VALUES (:client_id, 'first');
SELECT count(*) FROM lined WHERE client = :client_id;
UPDATE lined SET said = said || '.' WHERE client = :client_id AND said = 'first';
\syncpipeline
SELECT generate_series(1, 100);
SELECT sum(client) FROM lined;
\endpipeline
