"""Lists public data sets as rows of file and column names, which `beyond_text.tables` reads.

No adapter has code of its own. To read another data set, add a row.
"""

from __future__ import annotations

from beyond_text.tables.layouts import Join, Layout, Source

ADAPTERS: dict[str, Layout] = {
    # Kaggle "H&M Personalized Fashion Recommendations": articles.csv and images/. Readers that
    # take article_id for a number lose its leading zero; the picture's path needs it.
    "hm_articles": Layout(
        products=Source(
            "articles",
            {
                "product_id": "{article_id:0>10}",
                "title": "{prod_name}",
                "description": "{detail_desc}",
                "category": Join(
                    " > ", ("{index_name}", "{garment_group_name}", "{product_type_name}")
                ),
                "image": "images/{product_id:.3}/{product_id}.jpg",
                "group_id": "{product_code}",
            },
        )
    ),
    # Kaggle "Fashion Product Images": styles.csv and images/. Its last column holds bare commas.
    "fashion_product_images": Layout(
        products=Source(
            "styles",
            {
                "product_id": "{id}",
                "title": "{productDisplayName}",
                "description": Join(
                    " ", ("{gender}", "{baseColour}", "{season}", "{year}", "{usage}")
                ),
                "category": Join(" > ", ("{masterCategory}", "{subCategory}", "{articleType}")),
                "image": "images/{product_id}.jpg",
            },
            overflow="productDisplayName",
        )
    ),
    # Amazon's Shopping Queries Data Set (ESCI), in English; SQID adds pictures for a part of it.
    "esci": Layout(
        products=Source(
            "shopping_queries_dataset_products",
            {
                "product_id": "{product_id}",
                "title": "{product_title}",
                "description": Join(" ", ("{product_bullet_point}", "{product_description}")),
                "category": Join(", ", ("{product_brand}", "{product_color}")),
                "image": "images/{product_id}.jpg",
            },
            keep={"product_locale": "us"},
        ),
        queries=Source(
            "shopping_queries_dataset_examples",
            {"query_id": "{query_id}", "query": "{query}", "split": "{split}"},
            keep={"product_locale": "us"},
            distinct=True,
        ),
        qrels=Source(
            "shopping_queries_dataset_examples",
            {
                "query_id": "{query_id}",
                "product_id": "{product_id}",
                "relevance": "{esci_label}",
            },
            values={"relevance": {"E": "3", "S": "2", "C": "1", "I": "0"}},
            keep={"product_locale": "us"},
        ),
        absent_pictures=True,
    ),
}
