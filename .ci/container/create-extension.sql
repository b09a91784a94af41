-- Runs once, when the data folder is made: in the default database, and in the template of all later ones.
CREATE EXTENSION IF NOT EXISTS pg_background;
\connect template1
CREATE EXTENSION IF NOT EXISTS pg_background;
