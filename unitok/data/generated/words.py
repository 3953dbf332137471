"""The words of the generated catalogue: those that all domains share, and those of each domain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DomainWords:
    """The words of one domain.

    Attributes:
        template: how a title is made.
        features: words that only this domain has.
        materials: words, some of which other domains have, too.
        categories: three levels: category -> (sizes of its products, subcategory -> products).
    """

    template: str
    features: tuple[str, ...]
    materials: tuple[str, ...]
    categories: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


BRANDS = _words(
    "Alder & Finch, Norrvik, Ridgeback, Lanternfish, Ostara, Kestrel Lane, Maru, Saltmarsh, Field & Ember, "
    "Tindra, Copperline, Halcyon, Briar House, Quillon, Juniper Row, Aurelle, Stonefold, Merrow, "
    "Pinehurst, Oku, Velden, Larkspur, Harbour & Co, Vesper, Thistle, Nordlys, Bellweather, Casa Olmo, "
    "Fernway, Greyling, Solstice, Umbra, Windrush, Yarrow, Zephyr, Domus, Ivory Gate, Moss & Mill, "
    "Peregrine, Tallow"
)
COLOURS = _words(
    "Ivory, Rose, Sand, Forest Green, Midnight Blue, Charcoal, Terracotta, Amber, Plum, Sky Blue, Cherry "
    "Red, Silver, Sage, Black, Honey, Coral"
)
# Most items are for everyone, so the first one leaves the title as it is.
AUDIENCES = ("", *(f", for {who}" for who in _words("Women, Men, Kids, Teens, Beginners, Travel, Gifts")))

DOMAINS = {
    "beauty": DomainWords(
        template="{brand} {feature} {material} {product}, {colour}, {size}{audience}",
        features=_words(
            "Hydrating, Soothing, Volumising, Brightening, Firming, Long-Lasting, Fragrance-Free, "
            "Nourishing, Matte, Purifying, Anti-Frizz, Repairing"
        ),
        materials=_words(
            "Aloe, Shea, Argan, Turmeric, Rosehip, Oat, Coconut, Bamboo, Silk, Green Tea, Honey, Clay, Sea Salt"
        ),
        categories={
            "Skin Care": (
                _words("15 ml, 30 ml, 50 ml, 100 ml, 200 ml"),
                {
                    "Face": _words("Night Cream, Day Cream, Serum, Toner, Cleansing Gel"),
                    "Body": _words("Body Lotion, Body Butter, Hand Cream, Scrub"),
                    "Sun": _words("Sun Lotion SPF 30, Sun Spray SPF 50, After-Sun Gel"),
                },
            ),
            "Hair Care": (
                _words("100 ml, 250 ml, 400 ml, 750 ml"),
                {
                    "Wash": _words("Shampoo, Conditioner, Scalp Scrub, Dry Shampoo"),
                    "Styling": _words("Styling Wax, Hair Spray, Curl Cream, Mousse"),
                    "Treatments": _words("Hair Mask, Hair Oil, Leave-In Spray"),
                },
            ),
            "Make-Up": (
                _words("2 g, 4 g, 8 ml, 12 ml"),
                {
                    "Lips": _words("Lipstick, Lip Gloss, Lip Balm, Lip Liner"),
                    "Eyes": _words("Mascara, Eyeliner, Eyeshadow Palette, Brow Gel"),
                    "Nails": _words("Nail Polish, Top Coat, Cuticle Oil"),
                },
            ),
            "Bath": (
                _words("set of 2, set of 4, 150 g, 300 g"),
                {
                    "Soaps": _words("Soap Bar, Hand Wash, Shower Gel"),
                    "Soaks": _words("Bath Salts, Bath Bomb, Bubble Bath"),
                    "Tools": _words("Body Brush, Sponge, Face Cloth"),
                },
            ),
        },
    ),
    "kitchen": DomainWords(
        template="{brand} {feature} {material} {product}, {colour}, {size}{audience}",
        features=_words(
            "Non-Stick, Stackable, Dishwasher-Safe, Insulated, Leakproof, Ergonomic, Oven-Safe, "
            "Double-Walled, Hand-Finished, Compact, Heavy-Duty, Foldable"
        ),
        materials=_words(
            "Cast Iron, Stainless Steel, Bamboo, Glass, Oak, Ceramic, Silicone, Copper, Enamel, Stoneware, Walnut, Cork"
        ),
        categories={
            "Cookware": (
                _words("18 cm, 24 cm, 28 cm, 32 cm"),
                {
                    "Pans": _words("Frying Pan, Grill Pan, Wok, Crêpe Pan, Sauté Pan"),
                    "Pots": _words("Stock Pot, Saucepan, Casserole, Steamer"),
                    "Baking": _words("Loaf Tin, Cake Tin, Baking Tray, Muffin Tray"),
                },
            ),
            "Tableware": (
                _words("single, set of 2, set of 4, set of 6"),
                {
                    "Plates": _words("Dinner Plate, Side Plate, Soup Bowl, Platter"),
                    "Drinking": _words("Mug, Tumbler, Espresso Cup, Carafe"),
                    "Linen": _words("Napkin, Tablecloth, Tea Towel"),
                },
            ),
            "Tools": (
                _words("small, medium, large"),
                {
                    "Knives": _words("Chef's Knife, Paring Knife, Bread Knife, Knife Block"),
                    "Utensils": _words("Spatula, Whisk, Ladle, Tongs, Peeler"),
                    "Preparation": _words("Chopping Board, Grater, Colander, Mortar"),
                },
            ),
            "Storage": (
                _words("0.5 l, 1 l, 2 l, 5 l"),
                {
                    "Jars": _words("Storage Jar, Spice Jar, Honey Pot"),
                    "Boxes": _words("Lunch Box, Bread Bin, Food Container"),
                    "Bottles": _words("Water Bottle, Thermos, Oil Bottle"),
                },
            ),
        },
    ),
    "outdoors": DomainWords(
        template="{brand} {feature} {material} {product}, {colour}, {size}{audience}",
        features=_words(
            "Waterproof, Ultralight, Windproof, Packable, Four-Season, Quick-Dry, Reflective, Rugged, "
            "Breathable, Self-Inflating, Rechargeable"
        ),
        materials=_words(
            "Ripstop, Merino, Down, Stainless Steel, Bamboo, Carbon, Canvas, Aluminium, Cotton, Leather, Cork, Titanium"
        ),
        categories={
            "Camping": (
                _words("1 person, 2 persons, 3 persons, 4 persons"),
                {
                    "Shelter": _words("Tent, Tarp, Bivouac, Awning"),
                    "Sleeping": _words("Sleeping Bag, Sleeping Mat, Hammock, Camp Pillow"),
                    "Camp Kitchen": _words("Gas Stove, Cook Set, Camp Mug, Water Filter"),
                },
            ),
            "Hiking": (
                _words("10 l, 25 l, 35 l, 60 l"),
                {
                    "Packs": _words("Backpack, Day Pack, Hip Pack, Child Carrier"),
                    "Dry Storage": _words("Dry Bag, Rain Cover, Map Case"),
                    "Hydration": _words("Water Bladder, Flask, Soft Bottle"),
                },
            ),
            "Clothing": (
                _words("S, M, L, XL"),
                {
                    "Jackets": _words("Rain Jacket, Fleece, Wind Vest, Parka"),
                    "Footwear": _words("Hiking Boots, Trail Shoes, Sandals, Gaiters"),
                    "Accessories": _words("Beanie, Gloves, Hiking Socks, Sun Hat"),
                },
            ),
            "Cycling": (
                _words("small, medium, large"),
                {
                    "Lights": _words("Head Light, Rear Light, Helmet Light"),
                    "Bags": _words("Pannier, Saddle Bag, Handlebar Bag"),
                    "Protection": _words("Helmet, Knee Pads, Cycling Gloves"),
                },
            ),
        },
    ),
    "books_and_games": DomainWords(
        template="{brand} {feature} {product}, {material}, {colour} Edition, {size}{audience}",
        features=_words(
            "Illustrated, Award-Winning, Classic, Pocket, Annotated, Bestselling, Collector's, Bilingual, "
            "Abridged, Anniversary, Revised"
        ),
        materials=_words("Hardcover, Paperback, Linen, Leather, Tin Box, Wooden Box, Canvas, Recycled Card"),
        categories={
            "Fiction": (
                _words("180 pages, 260 pages, 340 pages, 520 pages"),
                {
                    "Crime": _words("Cosy Mystery, Police Thriller, Nordic Noir, Spy Novel"),
                    "Fantasy": _words("Epic Fantasy, Urban Fantasy, Fairy Tales"),
                    "Science Fiction": _words("Space Opera, Time-Travel Novel, Dystopia"),
                },
            ),
            "Non-Fiction": (
                _words("96 pages, 160 pages, 240 pages, 400 pages"),
                {
                    "Cooking": _words("Baking Book, Vegetarian Cookbook, Camping Cookbook"),
                    "Nature": _words("Bird Guide, Tree Guide, Star Atlas"),
                    "History": _words("Biography, Maritime History, City Portrait"),
                },
            ),
            "Games": (
                _words("1-2 players, 2-4 players, 3-6 players, 4-8 players"),
                {
                    "Board Games": _words("Strategy Game, Cooperative Game, Word Game, Dice Game"),
                    "Card Games": _words("Trick-Taking Game, Deck Builder, Memory Game"),
                    "Puzzles": _words("Jigsaw, Logic Puzzle, Escape Game"),
                },
            ),
        },
    ),
}
