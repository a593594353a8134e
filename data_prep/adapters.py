"""Lists public data sets and shops' exports as rows of file and column names.

`beyond_text.tables` reads them; no adapter has code of its own. To read another, add a row.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from beyond_text.tables.layouts import CLICKS, DEFAULT_LAYOUT, Layout, Source
from beyond_text.tables.templates import First, Join, Pictures, Price

# Beside an export of products, judgments come as in our own tables, or as a log of clicks.
JUDGED: dict[str, Any] = {
    "queries": DEFAULT_LAYOUT.queries,
    "qrels": DEFAULT_LAYOUT.qrels,
    "images": DEFAULT_LAYOUT.images,
    "clicks": CLICKS,
}
# What each variant of a product has of its own, and shoppers search for.
VARIANTS = frozenset({"sku", "gtin"})
LAYOUTS = (
    # Our own products, and a log of clicks for queries and judgments.
    Layout(
        "clicks",
        products=DEFAULT_LAYOUT.products,
        images=DEFAULT_LAYOUT.images,
        clicks=CLICKS,
    ),
    # Shopify's export of products. A product is a row for each variant, and one for each further
    # picture. The names of columns changed in 2024.
    Layout(
        "shopify",
        products=Source(
            "products*",
            {
                "product_id": "{Handle}",
                "title": "{Title}",
                "description": "{Body (HTML)}",
                "category": First(("{Product Category}", "{Type}")),
                "image": Pictures(("{Image Src}", "{Variant Image}")),
                "group_id": "{Handle}",
                "position": "{Image Position}",
            },
            optional=frozenset({"description", "category", "image", "position"}),
            other_names={
                "Handle": ("URL handle",),
                "Body (HTML)": ("Description", "Body HTML"),
                "Product Category": ("Standard Product Type", "Standardized Product Type"),
                "Type": ("Custom Product Type",),
                "Image Src": ("Product image URL",),
                "Variant Image": ("Variant image URL",),
                "Variant SKU": ("SKU",),
                "Variant Barcode": ("Barcode",),
                "Variant Price": ("Price",),
                "Variant Inventory Qty": ("Inventory quantity",),
            },
            # Not all: some columns, such as the cost of an item, are not for shoppers.
            further={
                "brand": "{Vendor}",
                "sku": "{Variant SKU}",
                "gtin": "{Variant Barcode}",
                "price": Price(("{Variant Price}",)),
                "stock": "{Variant Inventory Qty}",
                "tags": "{Tags}",
                "status": "{Status}",
            },
            joined=VARIANTS,
            merge="product_id",
        ),
        **JUDGED,
    ),
    # WooCommerce's export of products. Rows of variations name the SKU of their product, or its
    # number (id:7) where it has none.
    Layout(
        "woocommerce",
        products=Source(
            "*product*",
            {
                "product_id": First(("{Parent}", "{SKU}", "id:{ID}")),
                "title": "{Name}",
                "description": Join(" ", ("{Short description}", "{Description}")),
                "category": "{Categories}",
                "image": Pictures(("{Images}",), commas=True),
                "group_id": "{product_id}",
            },
            optional=frozenset({"description", "category", "image"}),
            other_names={"Brands": ("Brand",)},
            further={
                "brand": "{Brands}",
                "sku": "{SKU}",
                "gtin": "{GTIN, UPC, EAN, or ISBN}",
                "price": Price(("{Sale price}", "{Regular price}")),
                "in_stock": "{In stock?}",
                "stock": "{Stock}",
                "tags": "{Tags}",
            },
            values={"in_stock": {"1": "true", "0": "false", "backorder": "true"}},
            joined=VARIANTS,
            merge="product_id",
            last={"Type": "variation"},
        ),
        **JUDGED,
    ),
    # Google Merchant Center's feed: tabs, RSS 2.0 or Atom. Variants share item_group_id.
    Layout(
        "google_merchant",
        products=Source(
            "*",
            {
                "product_id": "{id}",
                "title": "{title}",
                "description": "{description}",
                "category": First(("{product_type}", "{google_product_category}")),
                "image": Pictures(("{image_link}", "{additional_image_link}"), commas=True),
                "group_id": "{item_group_id}",
            },
            endings=(".tsv", ".txt", ".csv", ".xml"),
            optional=frozenset({"description", "category", "image", "group_id"}),
            other_names={"description": ("summary", "content")},
            further={
                **{
                    name: f"{{{name}}}"
                    for name in ("brand", "mpn", "gtin", "condition", "color", "size", "material",
                                 "gender", "age_group")
                },
                "price": Price(("{sale_price}", "{price}")),
                "in_stock": "{availability}",
            },
            values={
                "in_stock": {
                    "in_stock": "true", "in stock": "true", "backorder": "false",
                    "out_of_stock": "false", "out of stock": "false",
                    "preorder": "false",
                },
            },
        ),
    ),
    # Folders of BEIR and MTEB. The name of a file of judgments is a split.
    Layout(
        "beir",
        products=Source(
            "corpus",
            {"product_id": "{_id}", "title": "{title}", "description": "{text}"},
            endings=(".jsonl",),
            optional=frozenset({"title", "description"}),
            one_of=("title", "description"),
            other_names={"_id": ("id", "corpus-id")},
        ),
        queries=Source(
            "queries",
            {"query_id": "{_id}", "query": "{text}"},
            endings=(".jsonl",),
            other_names={"_id": ("id", "query-id")},
        ),
        qrels=Source(
            "qrels/*",
            {"query_id": "{query-id}", "product_id": "{corpus-id}", "relevance": "{score}"},
            endings=(".tsv", ".jsonl", ".csv"),
            grades=("relevance",),
            split_by_file=True,
        ),
    ),
    # Kaggle "H&M Personalized Fashion Recommendations": articles.csv and images/. Readers that
    # take article_id for a number lose its leading zero; the picture's path needs it.
    Layout(
        "hm_articles",
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
                "group_id": "{product_code:0>7}",
            },
        ),
    ),
    # Kaggle "Fashion Product Images": styles.csv and images/. Its last column holds bare commas.
    Layout(
        "fashion_product_images",
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
        ),
    ),
    # Amazon's Shopping Queries Data Set (ESCI), in English. SQID's files, put beside it, name URLs
    # of pictures for a part of it; pictures of files that are there come first.
    Layout(
        "esci",
        products=Source(
            "shopping_queries_dataset_products",
            {
                "product_id": "{product_id}",
                "title": "{product_title}",
                "description": Join(" ", ("{product_bullet_point}", "{product_description}")),
                "category": Join(", ", ("{product_brand}", "{product_color}")),
                "image": "images/{product_id}.jpg",
            },
            further={"brand": "{product_brand}", "color": "{product_color}"},
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
            values={
                "relevance": {
                    "E": "3", "S": "2", "C": "1", "I": "0",
                    "exact": "3", "substitute": "2", "complement": "1", "irrelevant": "0",
                },
            },
            keep={"product_locale": "us"},
            grades=("relevance",),
        ),
        images=Source(
            "*product_image_urls",
            {"product_id": "{product_id}", "image": "{image_url}"},
            merge="product_id",
        ),
        absent_pictures=True,
    ),
)  # fmt: skip
ADAPTERS: dict[str, Layout] = {layout.name: layout for layout in LAYOUTS}


def add_layout_options(parser: ArgumentParser) -> None:
    """Adds the options that say how tables are read: `--layout` and `--grades`."""
    parser.add_argument("--layout", choices=sorted(ADAPTERS), help="default: this project's own")
    parser.add_argument(
        "--grades",
        type=lambda names: [name.strip() for name in names.split(",")],
        help="columns of qrels, as in relevance,desirability",
    )


def layout_of(name: str | None) -> Layout:
    """Returns the layout of a name of `--layout`; None: this project's own."""
    return ADAPTERS[name] if name else DEFAULT_LAYOUT
