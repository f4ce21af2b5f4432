"""The examples of the OpenAPI document. A test validates each against the schema beside it."""

from __future__ import annotations

from typing import Any

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
"""A red PNG of one pixel."""

SENTENCES = {
    "invalid_request": "'k' is too large; the largest value is 1000.",
    "malformed_body": "The picture is not valid base64; encode the file's bytes with standard base64.",
    "body_too_large": "The body is larger than the limit of 50,331,648 bytes; send less at once.",
    "ambiguous_length": "The body has both Transfer-Encoding and Content-Length; send one of them.",
    "body_too_slow": "The body did not arrive in time; send it faster or in smaller parts.",
    "headers_too_large": "The request line and headers are larger than the limit of 32,768 bytes; send less in them.",
    "unauthenticated": "This needs a key; send it as Authorization: Bearer KEY or as X-API-Key: KEY.",
    "forbidden": "This key may not change the service; send one from the file of admin keys.",
    "unsupported_media_type": "This route takes JSON; send it with Content-Type: application/json.",
    "url_not_allowed": "Pictures are not fetched from addresses here; send the bytes in base64.",
    "url_failed": "The picture could not be fetched from its address: the server there must answer 200 within 5 s with "
    "the picture itself, not redirected and not compressed; check the address or send the bytes.",
    "image_corrupt": "The image is truncated or damaged and cannot be decoded; send the complete file.",
    "image_too_large": "The image has 100,000,000 pixels and the limit is 64,000,000; scale it down first.",
    "image_format": "The bytes are not a picture in an accepted format (JPEG, PNG, WEBP, GIF, BMP); send one of these.",
    "quarantined": "The encoder failed on this input a short while ago; send another input or try again later.",
    "invalid_query": "A label is given twice; give each label once.",
    "invalid_text": "The text is empty; write at least one word.",
    "not_found": "There is no item with this id in the collection; take ids from search results.",
    "model_not_found": "This service runs another model; take its name from GET /v1/models or leave model out.",
    "generation_not_found": "The collection has no generation gen-000009; build it, or name one that is there.",
    "encoder_mismatch": "The collection was built by ViT-L-14:openai (6c1d0f93ab21) and this is another encoder "
    "(5f0c1c0a3c9b); name the right one with --encoder or build the collection again.",
    "reload_running": "Another generation is being loaded; try again when it is served.",
    "compaction_running": "The live changes are being built into a generation already; try again when it is served.",
    "live_writes_off": "Items cannot be changed here; start the service with --set live_writes=true.",
    "live_unavailable": "Items cannot be changed now because the log of live changes is damaged; its operator finds "
    "the reason in the service's log.",
    "live_full": "100,000 live changes wait to be built into a generation; try again in 30 s.",
    "live_log_damaged": "photos/live.db, the log of live changes, is damaged; restore it from a backup or move it "
    "aside.",
    "live_changes_missing": "gen-000002 lacks live changes that the log does not hold any more (up to 12); serve a "
    "generation that contains them.",
    "storage": "Could not write photos/live.db: no space is left on the disk; free some.",
    "no_previous_generation": "No other generation has been served since the start; name the one to reload.",
    "manifest_missing": "photos/gen-000002/manifest.json is missing or cannot be read; restore the generation or build "
    "the collection again.",
    "manifest_invalid": "photos/gen-000002/manifest.json is damaged; restore the generation or build the collection "
    "again.",
    "schema_unknown": "photos/gen-000002/manifest.json has the schema 2 and this Sightline reads 1; update Sightline "
    "or build the collection again.",
    "file_changed": "photos/gen-000002/img_emb/img_emb_0.npy has changed since it was written (its SHA-256 differs); "
    "restore it from a backup or build the collection again.",
    "count_mismatch": "The counts in photos/gen-000002/manifest.json do not add up; build the collection again.",
    "duplicate_ids": "photos/gen-000002 holds an item id twice; build the collection again.",
    "index_unusable": "The index file photos/gen-000002/index/images.faiss is missing; make it again with: sightline "
    "index optimise --collection photos --plan ivf-sq8.",
    "vectors_wrong": "A picture vector of photos/gen-000002 has length 2.000 and must have length 1 (row 0); build the "
    "collection again.",
    "memory_short": "There is not enough free memory to load the generation beside the one that is served; free some, "
    "give the service more, or start it anew with the other generation.",
    "out_of_memory": "There is no memory for this item at this moment; try again shortly.",
    "shutting_down": "The service is shutting down; send the request to another replica.",
    "encoder_lost": "The accelerator cannot be used by this process any longer; it ends, to be started anew.",
    "overloaded": "The service is busy and its queue is full; try again in 2 s.",
    "not_ready": "The service is starting, stopping or mending itself; try again shortly.",
    "deadline_exceeded": "The answer was not ready before the request's deadline; try again later or allow more time "
    "with X-Request-Timeout-Ms.",
    "encoding_failed": "The encoder failed on this item alone; check the input or try another one.",
}

_ENVELOPE = {
    "collection": "photos",
    "generation": "gen-000001",
    "encoder": "5f0c1c0a3c9b7d1e8a4f6b2d9e7c5a3f1b0d8e6c4a2f0e9d7c5b3a1f8e6d4c2b",
}
_RESULT = {
    "id": "dog-0017",
    "score": 0.3127,
    "caption": "a dog runs along the beach",
    "uri": "beach/dog-0017.jpg",
    "metadata": {"year": 2023},
    "thumbnail": "/v1/items/dog-0017/thumbnail",
}

TEXT_TO_IMAGE = {
    "one_text": {"text": "a dog on a beach", "k": 5},
    "several_texts": {"text": ["a dog", "a cat"], "k": 3, "min_score": 0.1},
    "with_a_filter": {"text": "a dog", "filter": {"must": [{"key": "year", "range": {"gte": 2020}}]}},
}
IMAGE_SEARCH = {"base64": {"image": PIXEL, "k": 5}, "data_uri": {"image": f"data:image/png;base64,{PIXEL}"}}
ZERO_SHOT = {
    "labels": {"image": PIXEL, "labels": ["cat", "dog", "car"]},
    "none_of_these": {"image": PIXEL, "labels": ["cat", "dog"], "none_threshold": 0.2},
    "own_templates": {"image": PIXEL, "labels": ["oak", "birch"], "templates": ["a photo of a {} tree."]},
}
LABEL_SET = {
    "labels": {"labels": ["cat", "dog"]},
    "templates": {"labels": ["cat", "dog"], "templates": ["a photo of a {}."], "none_threshold": 0.2},
}
EMBEDDINGS = {
    "texts": {"input": ["a dog", "a cat"], "encoding_format": "float"},
    "shortened": {"input": "a dog", "dimensions": 2},
    "infinity": {"input": [f"data:image/png;base64,{PIXEL}"], "modality": "image"},
    "vllm": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a dog"}]}]},
    "pictures": {"input": [{"image": PIXEL}, f"data:image/png;base64,{PIXEL}", {"text": "a dog"}]},
}
KNN_SERVICE = {
    "text": {"text": "a dog", "modality": "image", "num_images": 10, "indice_name": "photos"},
    "picture": {"image": PIXEL, "modality": "text", "num_images": 10},
}

METADATA = {"rows": {"ids": [0], "indice_name": "photos"}}

SEARCH_ANSWER: dict[str, Any] = {"results": [_RESULT], **_ENVELOPE}
ZERO_SHOT_ANSWER: dict[str, Any] = {
    "results": [
        {"label": "dog", "probability": 0.962, "score": 0.2713},
        {"label": "cat", "probability": 0.038, "score": 0.2391},
    ],
    "kind": "softmax",
    "none": False,
    **_ENVELOPE,
}
LABEL_SETS_ANSWER: dict[str, Any] = {
    "label_sets": [{"name": "animals", "num_labels": 2, "num_templates": 1, "none_threshold": 0.2, "origin": "file"}]
}
LABEL_SET_ANSWER: dict[str, Any] = {
    "label_set": {
        "name": "animals",
        "labels": ["cat", "dog"],
        "templates": ["a photo of a {}."],
        "none_threshold": 0.2,
        "origin": "file",
    },
    "encoder": _ENVELOPE["encoder"],
}
EMBEDDINGS_ANSWER: dict[str, Any] = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.0, 0.8]}],
    "model": "ViT-B-32:random",
    "usage": {"prompt_tokens": 0, "total_tokens": 0},
    "sightline": {"encoder": _ENVELOPE["encoder"]},
}
ITEM_ANSWER: dict[str, Any] = {
    "item": {
        "id": "dog-0017",
        "uri": "beach/dog-0017.jpg",
        "captions": ["a dog runs along the beach"],
        "width_px": 1024,
        "height_px": 768,
        "metadata": {"year": 2023},
        "thumbnail": "/v1/items/dog-0017/thumbnail",
    },
    **_ENVELOPE,
}
ITEM = {
    "picture": {"image": PIXEL},
    "all": {"image": PIXEL, "captions": ["a red pixel"], "metadata": {"year": 2024}, "uri": "pixels/red.png"},
}
WRITTEN_ANSWER: dict[str, Any] = {"id": "dog-0017", "status": "created", "sequence": 12, **_ENVELOPE}
DELETED_ANSWER: dict[str, Any] = {"id": "dog-0017", "status": "deleted", "sequence": 13, **_ENVELOPE}
COMPACT_ANSWER: dict[str, Any] = {
    "collection": "photos",
    "encoder": _ENVELOPE["encoder"],
    "before": "gen-000001",
    "now": "gen-000002",
    "changed": True,
    "sequence": 13,
    "num_items": 1250,
    "num_captions": 6250,
    "num_pruned": 0,
    "seconds": 2.4,
}
COLLECTIONS_ANSWER: dict[str, Any] = {
    "collections": [
        {
            "name": "photos",
            "generation": "gen-000001",
            "encoder": _ENVELOPE["encoder"],
            "encoder_name": "ViT-B-32:random",
            "num_items": 1200,
            "num_captions": 6000,
            "created": "2026-01-31T12:00:00+00:00",
        }
    ]
}
MODELS_ANSWER: dict[str, Any] = {
    "object": "list",
    "data": [
        {
            "id": "ViT-B-32:random",
            "object": "model",
            "created": 1769860800,
            "owned_by": "sightline",
            "fingerprint": _ENVELOPE["encoder"],
            "dim": 512,
            "untrained": True,
            "licence": "untrained",
            "precision": "fp32",
            "score_kind": "softmax",
        }
    ],
}
LIMITS_ANSWER: dict[str, Any] = {
    "max_k": 1000,
    "max_texts": 64,
    "max_openai_inputs": 2048,
    "max_text_chars": 1024,
    "max_word_chars": 100,
    "max_labels": 1000,
    "max_label_chars": 256,
    "max_templates": 100,
    "max_prompts": 10000,
    "max_label_sets": 100,
    "max_captions": 30,
    "max_metadata_bytes": 65536,
    "max_item_id_chars": 200,
    "max_body_bytes": 50331648,
    "max_image_bytes": 33554432,
    "max_image_pixels": 64000000,
    "max_image_side_px": 16384,
    "max_image_aspect_ratio": 100.0,
    "image_formats": ["JPEG", "PNG", "WEBP", "GIF", "BMP"],
    "max_filter_conditions": 64,
    "max_filter_values": 10000,
    "max_image_urls": 0,
    "max_header_bytes": 32768,
    "max_connections": 2048,
    "max_inflight_requests": 256,
    "max_queue_units": 4096,
    "default_timeout_seconds": 10.0,
    "max_timeout_seconds": 60.0,
    "header_timeout_seconds": 10.0,
    "receive_timeout_seconds": 30.0,
    "min_receive_bytes_per_second": 1024,
}
RELOAD = {"what_current_names": {}, "by_name": {"generation": "gen-000002"}}
CHANGE_ANSWER: dict[str, Any] = {
    "collection": "photos",
    "encoder": _ENVELOPE["encoder"],
    "before": "gen-000001",
    "now": "gen-000002",
    "changed": True,
    "num_items": 1250,
    "num_captions": 6250,
    "seconds": 1.8,
}
KNN_ANSWER: list[dict[str, Any]] = [
    {
        "id": 17,
        "similarity": 0.3127,
        "url": "beach/dog-0017.jpg",
        "caption": "a dog runs along the beach",
        "item_id": "dog-0017",
        "year": 2023,
    }
]
METADATA_ANSWER: list[dict[str, Any]] = [
    {
        "id": 17,
        "metadata": {
            "url": "beach/dog-0017.jpg",
            "caption": "a dog runs along the beach",
            "item_id": "dog-0017",
            "year": 2023,
        },
    }
]


def openai_error(problem: dict[str, Any]) -> dict[str, Any]:
    """A problem in OpenAI's shape."""
    status = problem["status"]
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    error = {"message": problem["detail"], "type": kind, "param": "input", "code": problem["code"]}
    return {"error": error, "request_id": problem["request_id"]}
