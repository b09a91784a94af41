-- first
SELECT 'ä'