"""Milvus as a place for collections past one machine; pymilvus is imported in here only.

A generation on disk stays the truth. It is pushed into Milvus as a *version*: three Milvus collections that belong
together, and an alias, switched in one step, that says which version is served.

::

    photos                      alias: the version that is served
    photos_before               alias: the version that was served before, for a rollback
    photos_v000002_images       row, item_id, vector, uri, captions, metadata, what filters look at
    photos_v000002_captions     row, item_row, vector, caption, what filters look at
    photos_v000002_about        the manifest, written last: without it a version is not complete

    address       milvus://host:19530/photos: which server, which collection
    capabilities  what each kind of server can do, by a table: a server that accepts an index may still fail to build it
    client        calls, with the server's errors in our words
    terms         metadata as Milvus keeps it for filters;  expressions: filters as it understands them
    layout        names, fields, rows;  pushing: a generation into Milvus, switching, rolling back
    vector_set    search;  generation: reading;  writing: upsert and delete
"""

from sightline.milvus.address import Address, parse_address
from sightline.milvus.generation import MilvusGeneration, open_version

__all__ = ["Address", "MilvusGeneration", "open_version", "parse_address"]
