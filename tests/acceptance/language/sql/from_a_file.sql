INSERT INTO log VALUES ('file', :'count') -- with the plan's parameters
