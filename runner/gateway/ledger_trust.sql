-- Whether a ledger may be read or written at all. These statements read only the catalogs: they read nothing in a
-- ledger and execute no function except PostgreSQL's own.

-- name: ledger_distrust
-- $1 schema, $2 roles that are trusted in addition, as JSON array. Objects of the ledger, or that it executes, with an
-- untrusted owner: a description of the object, and its owner; the schema first. A role that is both the session's and
-- set with SET ROLE counts only if RESET ROLE would not lead to a superuser.
-- Each run plans this statement, so it is written for the planner as well: the arrays, and pg_depend for a domain's
-- constraints, keep the estimated rows of the recursion low. Millions of estimated rows would mean hash tables of
-- megabytes, and compilation by JIT.
WITH RECURSIVE me AS (
  SELECT rolsuper FROM pg_roles WHERE rolname = session_user
), trusted AS (
  SELECT r.oid FROM pg_roles AS r
  WHERE r.rolsuper OR r.rolname = session_user
     OR (r.rolname = current_user AND NOT EXISTS (SELECT FROM me WHERE rolsuper))
     OR r.rolname::text IN (SELECT json_array_elements_text($2::json))
), place AS (
  SELECT oid, nspowner FROM pg_namespace WHERE nspname = $1::text
), tables (oid) AS (
  SELECT c.oid FROM pg_class AS c JOIN place AS p ON c.relnamespace = p.oid WHERE c.relkind IN ('r', 'p', 'f')
  UNION
  SELECT i.inhrelid FROM pg_inherits AS i JOIN tables AS t ON i.inhparent = t.oid
), hooks (classid, objid) AS (
  SELECT 'pg_class'::regclass::oid, oid FROM tables
  UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM tables)
  UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM tables)
  UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid IN (SELECT oid FROM tables)
), reached (classid, objid) AS (
  SELECT first.classid, first.objid
  FROM unnest(ARRAY(SELECT classid FROM hooks ORDER BY classid, objid),
              ARRAY(SELECT objid FROM hooks ORDER BY classid, objid)) AS first (classid, objid)
  UNION
  SELECT n.classid, n.objid
  FROM reached AS r
  CROSS JOIN LATERAL (
    SELECT d.refclassid AS classid, d.refobjid AS objid
    FROM pg_depend AS d
    WHERE d.classid = r.classid AND d.objid = r.objid
      AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass,
                           'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_language'::regclass)
    UNION ALL
    SELECT d.classid, d.objid
    FROM pg_depend AS d
    WHERE d.refclassid = r.classid AND d.refobjid = r.objid AND r.classid = 'pg_type'::regclass
      AND d.classid = 'pg_constraint'::regclass AND d.deptype = 'a'
  ) AS n
), things (classid, objid) AS (
  SELECT classid, objid FROM reached
  UNION SELECT 'pg_class'::regclass, c.oid FROM pg_class AS c JOIN place AS p ON c.relnamespace = p.oid
  UNION SELECT 'pg_proc'::regclass, f.oid FROM pg_proc AS f JOIN place AS p ON f.pronamespace = p.oid
  UNION SELECT 'pg_type'::regclass, t.oid FROM pg_type AS t JOIN place AS p ON t.typnamespace = p.oid
  UNION SELECT 'pg_operator'::regclass, o.oid FROM pg_operator AS o JOIN place AS p ON o.oprnamespace = p.oid
), owned (rank, classid, objid, owner) AS (
  SELECT 0, 'pg_namespace'::regclass::oid, oid, nspowner FROM place
  UNION ALL SELECT 1, t.classid, t.objid, c.relowner
    FROM things AS t JOIN pg_class AS c ON t.classid = 'pg_class'::regclass AND c.oid = t.objid
  UNION ALL SELECT 2, t.classid, t.objid, f.proowner
    FROM things AS t JOIN pg_proc AS f ON t.classid = 'pg_proc'::regclass AND f.oid = t.objid
  UNION ALL SELECT 3, t.classid, t.objid, y.typowner
    FROM things AS t JOIN pg_type AS y ON t.classid = 'pg_type'::regclass AND y.oid = t.objid
  UNION ALL SELECT 4, t.classid, t.objid, o.oprowner
    FROM things AS t JOIN pg_operator AS o ON t.classid = 'pg_operator'::regclass AND o.oid = t.objid
  UNION ALL SELECT 5, t.classid, t.objid, o.opcowner
    FROM things AS t JOIN pg_opclass AS o ON t.classid = 'pg_opclass'::regclass AND o.oid = t.objid
  UNION ALL SELECT 5, t.classid, t.objid, o.opfowner
    FROM things AS t JOIN pg_opfamily AS o ON t.classid = 'pg_opfamily'::regclass AND o.oid = t.objid
  UNION ALL SELECT 5, t.classid, t.objid, l.lanowner
    FROM things AS t JOIN pg_language AS l ON t.classid = 'pg_language'::regclass AND l.oid = t.objid
), real AS (
  SELECT o.rank, o.classid, o.objid, CASE WHEN r.rolname = 'pg_database_owner' THEN d.datdba ELSE o.owner END AS owner
  FROM owned AS o
  JOIN pg_database AS d ON d.datname = current_database()
  LEFT JOIN pg_roles AS r ON r.oid = o.owner
)
SELECT pg_describe_object(classid, objid, 0), coalesce(pg_get_userbyid(owner)::text, 'unknown')
FROM real
WHERE owner NOT IN (SELECT oid FROM trusted)
ORDER BY rank, classid, objid
LIMIT 3

-- name: ledger_trusted_writers
-- Replaces "{writers}": the login roles whose rows in a ledger are trusted. "{roles}" are those that the user names, as
-- a JSON array in a literal.
(SELECT rolname FROM pg_roles
 WHERE rolsuper OR rolname = session_user OR rolname::text IN (SELECT json_array_elements_text({roles}::json)))
