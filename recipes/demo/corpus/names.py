"""Names of people and places: lists of real ones, and invented ones so that no name can be memorised."""

from __future__ import annotations

import random

from recipes.demo.corpus.conversation import Language
from recipes.demo.corpus.split import Split, draw

GIVEN = tuple(
    """Adam Agnes Albert Alice Amanda Amy Andrea Andrew Angela Anna Anton Arthur Barbara Beatrice Bella Ben Bernard
    Bianca Bob Brenda Brian Bruno Carla Carol Cecilia Charles Chloe Chris Clara Claire Colin Connor Cora Daisy Dan
    Daniel David Dean Dennis Diana Dora Doris Dylan Eddie Edgar Edith Edward Elena Eli Ella Ellen Elsa Emil Emily Emma
    Eric Erica Esther Ethan Eva Eve Felix Fiona Flora Frank Fred Freya Gabriel Gary George Gina Gloria Grace Greta Gus
    Hanna Harold Harry Hazel Hector Helen Henry Hilda Holly Hugo Ian Ida Iris Isaac Isabel Ivan Ivy Jack Jacob James
    Jane Jason Jasper Jean Jenny Jerry Jill Joan Joe Joel John Jonas Josie Joyce Judy Julia Julian June Karen Karl Kate
    Kevin Kim Kurt Lara Laura Leah Leo Leon Lena Liam Lily Linda Lisa Logan Lola Lou Lucas Lucy Luis Luke Mabel Maggie
    Marco Maria Marion Mark Martha Martin Mary Mason Matt Maud Max May Megan Mia Michael Mike Mila Molly Mona Nadia
    Nancy Naomi Nathan Ned Neil Nell Nick Nina Noah Nora Norman Olga Oliver Olivia Omar Oscar Otto Owen Pam Paula Paul
    Pearl Peggy Penny Peter Petra Phil Pia Polly Quentin Rachel Ralph Ray Rebecca Rita Robert Robin Roger Rosa Rose Roy
    Ruby Rupert Ruth Ryan Sally Sam Sandra Sara Saul Selma Seth Sheila Simon Sofia Stan Stella Steve Sue Susan Tara Ted
    Teresa Theo Thomas Tim Tina Toby Tom Tony Tracy Ursula Vera Victor Viola Wanda Wendy Will Willa Zach Zara Zoe""".split()
)

TOWNS = {
    "en": tuple(
        """Aberdeen Adelaide Antwerp Austin Baltimore Barcelona Basel Bergen Bilbao Bologna Boston Bremen Bristol
        Brisbane Calgary Cardiff Chester Chicago Cleveland Cologne Cork Dallas Denver Dover Dresden Durban Durham
        Exeter Florence Frankfurt Geneva Genoa Ghent Glasgow Graz Haifa Hamburg Houston Istanbul Kyoto Lagos Leeds
        Leipzig Linz Liverpool Lyon Malaga Malmo Manchester Marseille Melbourne Memphis Miami Milan Montreal Mumbai
        Munich Naples Nantes Osaka Oxford Perth Philadelphia Phoenix Pisa Porto Portland Rotterdam Salzburg Seattle
        Seville Sheffield Stuttgart Sydney Toronto Trieste Turin Turku Utrecht Valencia Vancouver Venice Verona York
        Zurich""".split()
    ),
    "zh": tuple(
        """安庆 包头 宝鸡 北海 长春 长沙 常州 成都 赤峰 大理 大连 大同 丹东 德阳 东莞 佛山 福州 抚顺 赣州 广州 桂林 贵阳
        哈尔滨 海口 邯郸 杭州 合肥 衡阳 呼和浩特 湖州 黄山 惠州 吉林 济南 嘉兴 江门 金华 锦州 荆州 九江 昆明 拉萨 兰州 乐山
        丽江 连云港 临沂 柳州 泸州 洛阳 绵阳 牡丹江 南昌 南京 南宁 南通 宁波 齐齐哈尔 秦皇岛 青岛 泉州 三亚 汕头 上海 绍兴
        深圳 沈阳 石家庄 苏州 台州 太原 泰安 唐山 天津 温州 乌鲁木齐 无锡 芜湖 武汉 西安 西宁 厦门 咸阳 襄阳 徐州 烟台 扬州
        宜昌 银川 岳阳 湛江 张家界 郑州 中山 重庆 珠海 株洲 淄博 遵义""".split()
    ),
}

SURNAMES = "王李张刘陈杨黄赵周吴徐孙马朱胡郭何高林罗郑梁谢宋唐许邓冯韩曹曾彭萧蔡潘田董袁于余叶蒋杜苏魏程吕丁沈任姚卢傅钟姜崔谭廖范汪陆金石戴贾韦夏邱方侯邹熊孟秦白江"
GIVEN_CHARACTERS = "安波晨诚楚春丹东芳飞菲峰刚光桂国海涵航浩和红虹洪慧佳嘉建健江杰洁金晶静君俊凯康兰磊丽莉立亮琳玲龙璐茂梅美萌敏明楠宁佩鹏平萍琪琦倩强青晴庆秋泉然荣瑞珊诗石树帅思松涛天婷伟文希霞翔晓心欣新鑫兴星雄秀雪勋雅岩燕阳洋艺逸英莹颖永勇宇雨玉媛远月悦云泽志忠梓"

ONSETS = "b c d f g h j k l m n p r s t v w z".split() * 2 + "br ch dr fl gr kr pl sh st th tr".split()
VOWELS = "a e i o u".split() * 4 + "ai ea ee ia oo ou".split()
CODAS = [""] * 12 + "ck d l l m n n n nd r r s s st t t x".split()


def invented_word(rng: random.Random) -> str:
    """A word of two or three syllables that could be English and is not: "brosel"."""
    syllables = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((2, 2, 3))))
    return "".join(syllables)


def spliced_word(rng: random.Random, words: tuple[str, ...]) -> str:
    """The beginning of one word and the end of another: "engineer" and "singer" make "enginger"."""
    first, second = rng.choice(words), rng.choice(words)
    return first[: rng.randint(1, len(first))] + second[rng.randint(0, len(second) - 1) :]


def common_characters() -> str:
    """The 3,755 most used Chinese characters: the first level of GB 2312."""
    codes = (bytes((high, low)) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    return b"".join(codes).decode("gb2312", errors="ignore")


COMMON = common_characters()


def _english_person(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(GIVEN)
    return (invented_word(rng) if kind < 0.75 else spliced_word(rng, GIVEN)).capitalize()


def _chinese_person(rng: random.Random) -> str:
    characters = GIVEN_CHARACTERS if rng.random() < 0.65 else COMMON
    if rng.random() < 0.25:
        return "小" + rng.choice(characters)
    return rng.choice(SURNAMES) + "".join(rng.sample(characters, rng.choice((1, 2, 2))))


def person(rng: random.Random, split: Split, language: Language) -> str:
    """A person's name that belongs to `split`."""
    return draw(rng, split, _chinese_person if language == "zh" else _english_person)


def _english_town(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(TOWNS["en"])
    return (invented_word(rng) if kind < 0.75 else spliced_word(rng, TOWNS["en"])).capitalize()


def _chinese_town(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(TOWNS["zh"])
    if kind < 0.75:
        return "".join(rng.sample(COMMON, 2)) + rng.choice(("", "", "城", "镇", "州"))
    return "".join(rng.sample("安白长东高光海和河红湖黄金林龙梅明南宁平青清泉山石松桃天西星新永云竹", 2)) + rng.choice(
        "城镇村"
    )


def town(rng: random.Random, split: Split, language: Language) -> str:
    """A town that belongs to `split`; half are invented."""
    return draw(rng, split, _chinese_town if language == "zh" else _english_town)
