"""Filters that are no conditions on the columns, and what the error message names."""

from __future__ import annotations

COLUMNS = "id (TEXT), year (INTEGER), score (REAL), source (TEXT), own (INTEGER)"
BOMB = "%_" * 99
HOSTILE = {
    "nothing": ("", ()),
    "no condition": ("year >=", ("year (INTEGER)", "source (TEXT)")),
    "unknown column": (
        "yaer > 2000",
        ("yaer", COLUMNS),
    ),
    "second statement": ("1); DROP TABLE images; --", ()),
    "comment": ("1 --", ()),
    "union": ("1) UNION SELECT row FROM captions WHERE (1", ()),
    "union all": ("0) UNION ALL SELECT 1 WHERE (1", ()),
    "subquery": ("(SELECT year FROM images) > 2000", ()),
    "rows of another table": ("row IN (SELECT row FROM captions)", ()),
    "other table": ("EXISTS (SELECT 1 FROM captions)", ()),
    "schema": ("(SELECT sql FROM sqlite_master)", ()),
    "attach": ("1); ATTACH '/etc/passwd' AS other; --", ()),
    "pragma": ("(SELECT 1 FROM pragma_database_list)", ()),
    "file": ("length(readfile('/etc/passwd'))", ("readfile",)),
    "extension": ("load_extension('x.so')", ("load_extension",)),
    "random bytes": ("length(randomblob(1000000000))", ("randomblob",)),
    "zeros": ("zeroblob(1000000000) = id", ("zeroblob",)),
    "format": ("printf('%1000000000d', 1) = id", ("printf",)),
    "recursion": ("(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n)", ()),
    "regular expression": ("id REGEXP '(a+)+$'", ("REGEXP",)),
    "deep": ("(" * 900 + "1" + ")" * 900, ()),
    "deep not": ("NOT " * 400 + "1", ()),
    "long": ("1 OR " * 500 + "1", (2501, 2000)),
    "long pattern": (f"id LIKE '{BOMB}%_%_'", ()),
    "large number": (f"year = {'9' * 400}e9 AND abs(-9223372036854775808)", ()),
    "zero byte": ("year > 2000\0 OR 1", ()),
    "aggregate": ("count(*) > 1", ("count",)),
    "window": ("row_number() OVER () > 1", ()),
    "parameter": ("year = ?", ()),
    "match": ("id MATCH 'a'", ()),
    "json": ("json_extract('{}', '$') IS NULL", ("json_extract",)),
}
