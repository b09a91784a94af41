-- rows of one relation
SELECT count(*)
FROM pg_class
WHERE relname = :'rel.name'
