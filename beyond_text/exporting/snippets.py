"""The pieces of code of a model card: how an export is loaded, and put into vector databases."""

from __future__ import annotations

SENTENCE = """Queries of words, by sentence-transformers:

```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("query")  # this folder's query/
vectors = model.encode(["a red striped cushion"])
```

"""
BEYOND_TEXT = """Queries and products, by onnxruntime (torch is not needed):

```python
from pathlib import Path
import beyond_text
model = beyond_text.load(".")  # this folder; precision="int8" for faster queries of words
queries = model.encode_queries(["a red striped cushion"])
products = model.encode_products(["Cushion. Linen, 40 x 40 cm"], [Path("cushion.jpg")])
scores = queries @ products.T
```

Without this package: `example.py` (onnxruntime, tokenizers, pillow) and `preprocessing.json`."""

PGVECTOR = """**pgvector**

```sql
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE products (
    product_id text PRIMARY KEY, title text, category text, vector vector({dim})
);
-- fill it from vectors.parquet
CREATE INDEX ON products USING hnsw (vector vector_ip_ops);
SELECT product_id, title FROM products ORDER BY vector <#> %(query)s LIMIT 10;
```
"""
QDRANT = """**Qdrant**

```python
from qdrant_client import QdrantClient, models
client = QdrantClient("localhost")
space = models.VectorParams(size={dim}, distance=models.Distance.DOT)
client.create_collection("products", vectors_config=space)
client.upload_collection(
    "products", table["vector"].to_pylist(), table.drop_columns("vector").to_pylist()
)
client.query_points("products", query=vector, limit=10)
```
"""
OPENSEARCH = """**OpenSearch**

```json
PUT products
{{"settings": {{"index.knn": true}},
 "mappings": {{"properties": {{
   "product_id": {{"type": "keyword"}}, "title": {{"type": "text"}},
   "vector": {{"type": "knn_vector", "dimension": {dim}, "space_type": "innerproduct"}}}}}}}}

POST products/_search
{{"size": 10, "query": {{"knn": {{"vector": {{"vector": [], "k": 10}}}}}}}}
```
"""
VESPA = """**Vespa**

```text
field vector type tensor<float>(x[{dim}]) {{
    indexing: attribute | index
    attribute {{ distance-metric: prenormalized-angular }}
}}
rank-profile vector {{
    inputs {{ query(q) tensor<float>(x[{dim}]) }}
    first-phase {{ expression: closeness(field, vector) }}
}}
# yql: select * from products where {{targetHits: 10}}nearestNeighbor(vector, q)
```"""


def loading(has_query_folder: bool) -> str:
    """Returns how the export is loaded."""
    return (SENTENCE if has_query_folder else "") + BEYOND_TEXT


def databases(dim: int, products: int | None) -> str:
    """Returns how vectors are put into four databases and searched there."""
    given = (
        "`python -m beyond_text.export RUN OUT --products FOLDER` writes `vectors.parquet`"
        if products is None
        else f"`vectors.parquet` holds {products:,} products"
    )
    opening = (
        f"{given}: product_id, vector ({dim} float32 of length 1), title, category and the shop's "
        'further columns. `table` is `pyarrow.parquet.read_table("vectors.parquet")`; a query\'s '
        "`vector` is one row of `encode_queries`."
    )
    snippets = (PGVECTOR, QDRANT, OPENSEARCH, VESPA)
    return "\n\n".join([opening, *(text.format(dim=dim).strip() for text in snippets)])
