"""Which JSON schemas outlines-core writes as a regular expression without leaving a part of them out."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

# The keywords of which outlines-core 0.2.14 reads the first that a schema has, and leaves the others out.
KINDS = ("properties", "allOf", "anyOf", "oneOf", "prefixItems", "enum", "const", "$ref", "type")
NUMBER = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
STRING = {"minLength", "maxLength", "pattern", "format"}
ARRAY = {"items", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains"}
OBJECT = {"required", "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties"}
OBJECT |= {"dependentRequired", "dependentSchemas", "dependencies"}
OTHERS = {"not", "if", "then", "else", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef"}
LIMITS = {*KINDS, *NUMBER, *STRING, *ARRAY, *OBJECT, *OTHERS}
"""The keywords that limit what is valid; others, such as titles, do not."""
OF_TYPE = {"integer": NUMBER, "number": NUMBER, "string": STRING, "array": ARRAY, "object": OBJECT}
READ_OF_TYPE = {
    "string": STRING,
    "array": {"items", "minItems", "maxItems"},
    "object": {"additionalProperties", "minProperties", "maxProperties"},
}


def require_whole(schema: Any) -> None:
    """Raise `ValueError` if outlines-core would leave a keyword of a schema out, so that its texts may violate the schema."""
    if not isinstance(schema, Mapping):
        return
    kind = next((name for name in KINDS if name in schema), None)
    limits = LIMITS & set(schema)
    if kind == "properties":
        _object(schema)
        left = limits - {"type", "properties", "required", "additionalProperties"}
    elif kind == "prefixItems":
        left = _array(schema, limits)
    elif kind in ("enum", "const"):
        values = schema["enum"] if kind == "enum" else [schema["const"]]
        names = _types(schema)
        typed = all(not names or any(_is_of(value, name) for name in names) for value in values)
        left = limits - ({kind, "type"} if typed else {kind})
        if not values:
            raise ValueError("enum must have a value")
    elif kind == "type":
        left = _typed(schema, limits)
    else:
        left = limits - {str(kind)}
        if kind == "allOf" and len(schema["allOf"]) != 1:
            raise ValueError("allOf is supported of one schema only")
    left = {name for name in left if not (name == "uniqueItems" and schema[name] is False)}
    if left:
        beside = f" beside {kind}" if kind not in (None, "type") else ""
        raise ValueError(f"{', '.join(sorted(left))} would be left out: not supported{beside}")
    for name in ("Length", "Items", "Properties"):
        if schema.get(f"min{name}", 0) > schema.get(f"max{name}", math.inf):
            raise ValueError(f"min{name} must not be above max{name}")
    for part in _parts(schema):
        require_whole(part)


def _object(schema: Mapping[str, Any]) -> None:
    names, needed = schema["properties"], schema.get("required", [])
    if _types(schema) not in ([], ["object"]):
        raise ValueError("properties are supported of the type object alone")
    for name in names:
        if json.dumps(name, ensure_ascii=False) != f'"{name}"':
            raise ValueError(
                f"names of properties with quotes, backslashes or control characters are not supported: {name!r}"
            )
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"required properties must be among properties; {missing} are not")


def _array(schema: Mapping[str, Any], limits: set[str]) -> set[str]:
    """The limits of an array of exactly the given items that these may violate."""
    count, read = len(schema["prefixItems"]), {"prefixItems", "items", "additionalItems"}
    if _types(schema) in ([], ["array"]):
        read |= {"type"}
    if schema.get("minItems", 0) <= count <= schema.get("maxItems", count):
        read |= {"minItems", "maxItems"}
    return limits - read


def _typed(schema: Mapping[str, Any], limits: set[str]) -> set[str]:
    """The limits on values of these types that are not read; those on values of other types say nothing."""
    left = limits & OTHERS
    for name in _types(schema):
        left |= (limits & OF_TYPE.get(name, set())) - READ_OF_TYPE.get(name, set())
        if name == "string":
            ways = [some for some in ({"minLength", "maxLength"}, {"pattern"}, {"format"}) if some & limits]
            left |= set().union(*ways[1:])
        if name == "object" and not schema.get("required"):
            left -= {"required"}
        if name == "object":  # outlines-core 0.2.14 tells apart no properties and some, and does not count them
            left |= {word for word, most in (("minProperties", 1), ("maxProperties", 0)) if schema.get(word, 0) > most}
        if name == "array" and "items" in schema:
            left -= {"additionalItems"}
    return left


def _types(schema: Mapping[str, Any]) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else list(found)


def _is_of(value: Any, name: str) -> bool:
    kinds = {"string": str, "array": list, "object": Mapping, "boolean": bool, "null": type(None)}
    if name in kinds:
        return isinstance(value, kinds[name])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (name == "number" or (name == "integer" and float(value).is_integer()))


def _parts(schema: Mapping[str, Any]) -> list[Any]:
    """The schemas inside a schema."""
    found: list[Any] = []
    for name in ("properties", "$defs", "definitions"):
        inner = schema.get(name)
        found += inner.values() if isinstance(inner, Mapping) else []
    for name in ("allOf", "anyOf", "oneOf", "prefixItems"):
        inner = schema.get(name)
        found += inner if isinstance(inner, Sequence) and not isinstance(inner, str) else []
    return [*found, schema.get("items"), schema.get("additionalProperties")]
