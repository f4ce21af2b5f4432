"""values.schema.json, made of values.yaml and the service's settings model, so that neither can drift from it."""

from __future__ import annotations

import json
from typing import Any

from service.settings import Settings

_STRINGS = {"pullSecrets", "accessModes", "command", "extraArgs", "hostnames"}
"""Lists of strings; every other list holds objects of Kubernetes."""
_FREE = {"resources", "requests", "limits", "labels"}
"""Objects of Kubernetes or of the user: any key."""
_QUANTITY = {"type": ["string", "integer"], "pattern": "^[0-9.]+(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"}
_DIGEST = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
_NAMED: dict[str, dict[str, Any]] = {
    "digest": _DIGEST,
    "size": _QUANTITY,
    "sizeLimit": _QUANTITY,
    "tmpSizeLimit": _QUANTITY,
    "hubSizeLimit": _QUANTITY,
    "shmSizeLimit": _QUANTITY,
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "maxSurge": {"type": ["integer", "string"]},
    "maxUnavailable": {"type": ["integer", "string"]},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "replicas": {"type": "integer", "minimum": 0},
    "minReplicas": {"type": "integer", "minimum": 1},
    "maxReplicas": {"type": "integer", "minimum": 1},
    "count": {"type": "integer", "minimum": 1},
    "shards": {"type": "integer", "minimum": 1, "maximum": 10000},
    "parallelism": {"type": "integer", "minimum": 0},
    "batchSize": {"type": "integer", "minimum": 1, "maximum": 4096},
    "maxErrorRate": {"type": "number", "minimum": 0, "maximum": 1},
    "recallTarget": {"type": "number", "minimum": 0.01, "maximum": 1},
    "targetCPUUtilizationPercentage": {"type": "integer", "minimum": 1, "maximum": 100},
    "queueAgeSeconds": {"type": "number", "exclusiveMinimum": 0},
    "runbookBase": {"type": "string", "pattern": "^(https?://.*/)?$"},
}
_AT: dict[str, dict[str, Any]] = {
    "collection.source": {"enum": ["pvc", "copy", "image", "demo", "none"]},
    "collection.path": {"type": "string", "pattern": "^[^/]*(/[^/]+)*$"},
    "indexer.mode": {"enum": ["build", "sync"]},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "image.tag": {"type": "string", "pattern": "^[A-Za-z0-9_.-]*$", "not": {"const": "latest"}},
}


def values_schema(values: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of a values file with these defaults: no other key, and no other type."""
    schema = _of("", "", values)
    properties = schema["properties"]
    properties["settings"] = _settings()
    properties["global"] = {"type": "object", "description": "Helm's own."}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Sightline chart",
        **schema,
    }


def schema_text(values: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(values_schema(values), indent=2, ensure_ascii=False) + "\n"


def _of(path: str, name: str, value: Any) -> dict[str, Any]:
    fixed = _AT.get(path) or _NAMED.get(name)
    if fixed is not None:
        return dict(fixed)
    if isinstance(value, dict):
        if not value or name in _FREE:
            return {"type": "object"}
        children = {key: _of(f"{path}.{key}".lstrip("."), key, child) for key, child in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": children}
    if isinstance(value, list):
        return {"type": "array", "items": {"type": "string" if name in _STRINGS else "object"}}
    if value is None:
        return {"type": ["integer", "null"], "minimum": 0}
    kinds: dict[type, dict[str, Any]] = {
        bool: {"type": "boolean"},
        int: {"type": "integer", "minimum": 0},
        float: {"type": "number", "minimum": 0},
        str: {"type": "string"},
    }
    return kinds[type(value)]


def _settings() -> dict[str, Any]:
    """Every setting of the service but those that only the chart knows; null takes a default of the chart away."""
    own = {"collection", "encoder", "api_keys_file", "admin_keys_file", "allow_unauthenticated"}
    model = Settings.model_json_schema()["properties"]
    properties = {}
    for name in model:
        if name in own:
            continue
        kept = {key: value for key, value in model[name].items() if key not in {"title", "default"}}
        if "anyOf" not in kept and not ({"host", "port"} & {name}):
            description = kept.pop("description")
            kept = {"description": description, "anyOf": [kept, {"type": "null"}]}
        properties[name] = kept
    return {
        "type": "object",
        "additionalProperties": False,
        "description": "Settings of the service by name.",
        "properties": properties,
    }
