"""Names of built-in functions and types by what they do: functions that only read, that do more, of known volatility.

The lists are not complete: a function on none of them counts as unknown. An integration test compares them with
pg_proc.
"""

from __future__ import annotations

#: Functions that change data, settings or the server, or take a lock that lasts.
WRITERS = frozenset(
    {
        *("nextval", "setval", "pg_notify", "set_config", "dblink_exec", "pg_reload_conf", "pg_rotate_logfile"),
        *("pg_terminate_backend", "pg_cancel_backend", "pg_promote", "pg_prewarm", "brin_summarize_new_values"),
        *("brin_summarize_range", "brin_desummarize_range", "gin_clean_pending_list"),
    }
)
WRITER_PREFIXES = (
    *("lo_", "pg_advisory_", "pg_try_advisory_", "pg_background_", "pg_create_", "pg_drop_", "pg_logical_"),
    *("pg_replication_", "pg_stat_reset", "pg_switch_", "pg_wal_replay_", "pg_backup_", "pg_import_", "pg_restore_"),
    *("pg_clear_", "pg_sync_", "pg_file_"),
)

#: Functions that run SQL from their arguments.
RUNS_SQL_PREFIXES = ("query_to_xml", "cursor_to_xml", "table_to_xml", "schema_to_xml", "database_to_xml", "ts_stat")

#: Functions that only read.
READERS = frozenset(
    {
        *("count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every", "string_agg", "array_agg"),
        *("json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "stddev", "variance", "mode"),
        *("percentile_cont", "percentile_disc", "row_number", "rank", "dense_rank", "ntile", "lag", "lead"),
        *("first_value", "last_value", "nth_value", "percent_rank", "cume_dist", "any_value", "now"),
        *("clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "age", "date_trunc"),
        *("date_part", "date_bin", "make_date", "make_time", "make_timestamp", "make_timestamptz"),
        *("make_interval", "justify_days", "justify_hours", "justify_interval", "isfinite", "to_char", "to_date"),
        *("to_timestamp", "to_number", "abs", "ceil", "ceiling", "floor", "round", "trunc", "mod", "div"),
        *("power", "sqrt", "sign", "exp", "ln", "log", "random", "gcd", "lcm", "width_bucket", "length"),
        *("char_length", "octet_length", "lower", "upper", "initcap", "concat", "concat_ws", "format", "left"),
        *("right", "lpad", "rpad", "ltrim", "rtrim", "btrim", "replace", "translate", "reverse", "repeat"),
        *("split_part", "starts_with", "strpos", "substr", "substring", "md5", "sha256", "encode", "decode"),
        *("regexp_match", "regexp_matches", "regexp_replace", "regexp_split_to_array", "regexp_split_to_table"),
        *("regexp_count", "regexp_like", "regexp_substr", "quote_ident", "quote_literal", "quote_nullable"),
        *("chr", "ascii", "hashtext", "gen_random_uuid", "generate_series", "generate_subscripts", "unnest"),
        *("array_length", "array_position", "array_to_string", "array_append", "array_remove", "cardinality"),
        *("string_to_array", "string_to_table", "jsonb_array_elements", "jsonb_array_elements_text"),
        *("json_array_elements", "json_array_elements_text", "jsonb_each", "jsonb_each_text", "json_each"),
        *("jsonb_object_keys", "json_object_keys", "jsonb_array_length", "json_array_length", "to_json"),
        *("to_jsonb", "json_build_object", "jsonb_build_object", "json_build_array", "jsonb_build_array"),
        *("jsonb_typeof", "row_to_json", "jsonb_path_exists", "jsonb_path_query", "jsonb_set"),
        *("jsonb_strip_nulls", "current_setting", "current_database", "current_schema", "current_schemas"),
        *("version", "to_regclass", "to_regtype", "to_regproc", "to_regprocedure", "to_regrole"),
        *("to_regnamespace", "format_type", "obj_description", "col_description", "shobj_description"),
        *("num_nulls", "num_nonnulls", "pg_sleep", "has_table_privilege", "has_schema_privilege"),
        *("has_database_privilege", "has_column_privilege", "has_function_privilege", "has_sequence_privilege"),
        *("has_any_column_privilege", "pg_has_role", "pg_relation_size", "pg_total_relation_size"),
        *("pg_table_size", "pg_indexes_size", "pg_database_size", "pg_tablespace_size", "pg_size_pretty"),
        *("pg_size_bytes", "pg_column_size", "pg_is_in_recovery", "pg_backend_pid", "pg_blocking_pids"),
        *("pg_postmaster_start_time", "pg_conf_load_time", "pg_typeof", "pg_current_wal_lsn", "pg_wal_lsn_diff"),
        *("pg_last_wal_replay_lsn", "pg_last_wal_receive_lsn", "pg_last_xact_replay_timestamp"),
        *("pg_relation_filepath", "pg_relation_filenode", "pg_index_column_has_property", "pg_encoding_to_char"),
        *("pg_partition_tree", "pg_partition_root", "pg_partition_ancestors", "pg_input_is_valid"),
        *("txid_current_if_assigned", "pg_current_xact_id_if_assigned", "pg_snapshot_xmin"),
        *("pg_current_snapshot", "mxid_age", "pg_options_to_table", "pg_table_is_visible"),
        *("pg_show_all_settings", "pg_sequence_last_value"),
    }
)
READER_PREFIXES = ("pg_get_", "pg_stat_get_", "pg_stat_file")

#: Functions with the same value in a whole statement.
STABLE = frozenset(
    {"now", "transaction_timestamp", "statement_timestamp", "current_setting", "to_timestamp", "timezone"}
    | {"txid_current", "pg_current_xact_id"}
)

#: Functions with a different value in every row.
VOLATILE = frozenset(
    {"random", "gen_random_uuid", "uuidv4", "uuidv7", "uuid_generate_v1", "uuid_generate_v4", "clock_timestamp"}
    | {"timeofday", "nextval", "setval", "currval", "lastval", "random_normal"}
    | {"pg_sleep", "pg_sleep_for", "pg_sleep_until", "pg_sequence_last_value", "pg_blocking_pids", "pg_is_in_recovery"}
    | {"pg_current_wal_lsn", "pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp"}
    | {"pg_tablespace_size", "pg_database_size", "pg_relation_size", "pg_total_relation_size", "pg_table_size"}
    | {"pg_indexes_size", "pg_partition_tree", "pg_partition_ancestors", "set_config", "pg_notify"}
)

#: Functions that act outside of the transaction: in another session, or in a file.
OUTSIDE_TRANSACTION = frozenset(
    {
        *("dblink_exec", "dblink_send_query", "lo_export", "pg_file_write", "pg_file_unlink", "pg_file_rename"),
        *("pg_background_launch", "pg_background_submit"),
    }
)

#: Functions that fail in a transaction that has written something.
BEFORE_WRITING = frozenset({"pg_create_logical_replication_slot", "pg_copy_logical_replication_slot"})

#: Functions that act on the whole server.
SERVER_WIDE = frozenset(
    {
        *("pg_reload_conf", "pg_rotate_logfile", "pg_promote", "pg_switch_wal", "pg_create_restore_point"),
        *("pg_terminate_backend", "pg_cancel_backend", "pg_backup_start", "pg_backup_stop"),
        *("pg_wal_replay_pause", "pg_wal_replay_resume", "pg_create_physical_replication_slot"),
        *("pg_create_logical_replication_slot", "pg_drop_replication_slot"),
    }
)

#: Names that the grammar turns into an integer and a sequence; they are not types.
SERIAL_TYPES = frozenset({"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"})

#: Types without a constraint, besides those that are keywords, which the parser qualifies.
TYPES = frozenset(
    {"text", "bytea", "uuid", "json", "jsonb", "xml", "date", "timestamptz", "timetz", "int2", "int4", "int8", "oid"}
    | {"float4", "float8", "money", "name", "inet", "cidr", "macaddr", "tsvector", "tsquery", "point", "box", "bool"}
    | {"int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange", "regclass", "pg_lsn", "xid8"}
)
