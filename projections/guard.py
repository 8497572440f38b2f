"""Says which statements an analyst may run: one that only reads the projections.

The statement's type is not enough (``WITH x AS (INSERT …) SELECT`` calls itself a SELECT), so the
whole parse tree is walked and everything in it must be on a list of what is allowed. The tree
comes from DuckDB's own parser; nothing is executed to get it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from typing import Any

import duckdb

from schemas.errors import InvalidRequest, PermissionDenied

QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
TABLE_REFERENCES = frozenset(
    {
        "BASE_TABLE",
        "COLUMN_DATA",
        "CTE",
        "EMPTY",
        "EXPRESSION_LIST",
        "JOIN",
        "PIVOT",
        "SHOW_REF",
        "SUBQUERY",
        "TABLE_FUNCTION",
    }
)
TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "repeat_row"})
SHOWN = frozenset({"", "tables", '"tables"'})
FORBIDDEN_FUNCTIONS = frozenset(
    {
        "current_query",
        "current_setting",
        "getenv",
        "getvariable",
        "nextval",
        "currval",
        "set_config",
        "sleep_ms",
        "write_log",
        "txid_current",
    }
)
EXPRESSIONS = frozenset(
    {
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "DEFAULT",
        "FUNCTION",
        "LAMBDA",
        "LAMBDA_REF",
        "OPERATOR",
        "PARAMETER",
        "POSITIONAL_REFERENCE",
        "STAR",
        "SUBQUERY",
        "TYPE",
        "WINDOW",
    }
)
STATEMENT_BYTES_MAX = 100_000

Node = dict[str, Any]


def check(statement: str, tables: Collection[str]) -> None:
    """Raise unless the statement is one query over these tables and nothing else.

    InvalidRequest for what cannot be parsed, PermissionDenied for what is not allowed.
    """
    if len(statement) > STATEMENT_BYTES_MAX:
        raise InvalidRequest(f"the statement is longer than {STATEMENT_BYTES_MAX} characters")
    root = _tree(statement)
    statements = root["statements"]
    if len(statements) != 1:
        raise InvalidRequest(f"one statement at a time, not {len(statements)}")
    _Walk({name.lower() for name in tables}).visit(statements[0], frozenset())


def _tree(statement: str) -> Node:
    with _parser().cursor() as connection:
        try:
            ((text,),) = connection.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()
        except duckdb.Error as error:
            raise InvalidRequest(f"the statement cannot be parsed: {error}") from error
    root: Node = json.loads(text)
    if root["error"]:
        message = str(root.get("error_message", "unknown"))
        if root.get("error_type") == "not implemented":
            raise PermissionDenied(
                "only statements that read are allowed: SELECT, WITH … SELECT, VALUES, DESCRIBE, "
                "SUMMARIZE, SHOW TABLES",
                action="Change state through the API; the tables follow from the log.",
            )
        raise InvalidRequest(f"the statement cannot be parsed: {message}")
    return root


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"enable_external_access": False, "threads": 1})


class _Walk:
    """Visits every node; names of common table expressions are known below where they stand."""

    def __init__(self, tables: Collection[str]) -> None:
        self._tables = tables

    def visit(self, value: Any, known: frozenset[str]) -> None:
        if isinstance(value, list):
            for item in value:
                self.visit(item, known)
        elif isinstance(value, dict):
            known = self._common_tables(value, known)
            self._judge(value, known)
            for name, item in value.items():
                if name != "cte_map":
                    self.visit(item, known)

    def _common_tables(self, node: Node, known: frozenset[str]) -> frozenset[str]:
        """Visit the common table expressions of a node; return the names known to the rest of it.

        Each knows those before it, and itself only where it is recursive: otherwise its own name
        would reach through to a view of the system or a file.
        """
        for entry in (node.get("cte_map") or {}).get("map", []):
            self.visit(entry["value"], known)
            known |= {str(entry["key"]).lower()}
        if node.get("type") == "RECURSIVE_CTE_NODE":
            known |= {str(node["cte_name"]).lower()}
        return known

    def _judge(self, node: Node, known: frozenset[str]) -> None:
        kind = node.get("type")
        if not isinstance(kind, str):
            return
        if "class" in node:
            self._expression(node)
        elif kind.endswith("_NODE"):
            _require(kind in QUERY_NODES, f"{kind} is not allowed here")
        elif "sample" in node and "query_location" in node:
            self._table(node, kind, known)

    def _expression(self, node: Node) -> None:
        _require(node["class"] in EXPRESSIONS, f"{node['class']} is not allowed here")
        if node["class"] in {"FUNCTION", "WINDOW"}:
            name = str(node.get("function_name", "")).lower()
            _require(name not in FORBIDDEN_FUNCTIONS, f"the function {name} is not allowed")

    def _table(self, node: Node, kind: str, known: frozenset[str]) -> None:
        _require(kind in TABLE_REFERENCES, f"{kind} is not allowed here")
        if kind == "BASE_TABLE":
            path = [str(part) for part in node.get("qualified_name", {}).get("path", [])]
            name = str(node["table_name"]).lower()
            plain = node["schema_name"] in {"", "main"} and not node["catalog_name"]
            _require(
                plain and (name in self._tables or name in known),
                f"there is no table {'.'.join(path) or name!r}; there are: "
                + ", ".join(sorted(self._tables)),
            )
        elif kind == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name", "")).lower()
            _require(name in TABLE_FUNCTIONS, f"the table function {name} is not allowed")
        elif kind == "SHOW_REF" and node.get("query") is None:
            _require(
                str(node["table_name"]).lower() in SHOWN, "of SHOW only SHOW TABLES is allowed"
            )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PermissionDenied(
            message, action="Query the projections only; `SHOW TABLES` lists them."
        )
