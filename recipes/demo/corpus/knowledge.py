"""A little knowledge of the world: colours, opposites, capitals, what is an animal and what a fruit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.demo.corpus import words
from recipes.demo.corpus.conversation import Language, Talk, one_turn
from recipes.demo.corpus.smalltalk import vary
from recipes.demo.corpus.split import Split
from recipes.demo.corpus.words import Pairs, pairs_of, side


@dataclass(frozen=True)
class Question:
    """A question, the sentence that answers it, the answer alone, and three or more wrong ones."""

    text: str
    sentence: str
    short: str
    wrong: tuple[str, ...]


CATEGORIES: tuple[tuple[str, str, Pairs], ...] = (
    ("animal", "动物", words.ANIMALS),
    ("fruit", "水果", words.FRUITS),
    ("vegetable", "蔬菜", words.VEGETABLES),
    ("colour", "颜色", words.COLOURS[:10]),
    ("drink", "饮料", words.DRINKS),
    ("vehicle", "交通工具", words.VEHICLES),
    ("job", "职业", words.JOBS[:16]),
)
COLOUR_OF: dict[Language, Pairs] = {
    "en": pairs_of("""the sky=blue, the sea=blue, grass=green, snow=white, milk=white, blood=red, a banana=yellow, a lemon=yellow,
        coal=black, the night=black, a carrot=orange, a leaf=green, chocolate=brown, a strawberry=red, a cherry=red, an elephant=grey,
        the sun=yellow, a tomato=red, a cucumber=green, rice=white, an orange=orange, a cloud=white, a frog=green, a crow=black"""),
    "zh": pairs_of("""天空=蓝色, 大海=蓝色, 草=绿色, 雪=白色, 牛奶=白色, 血=红色, 香蕉=黄色, 柠檬=黄色, 煤=黑色, 夜晚=黑色, 胡萝卜=橙色, 树叶=绿色,
        巧克力=棕色, 草莓=红色, 樱桃=红色, 大象=灰色, 太阳=黄色, 番茄=红色, 黄瓜=绿色, 米饭=白色, 橙子=橙色, 白云=白色, 青蛙=绿色, 乌鸦=黑色"""),
}
OPPOSITES: dict[Language, Pairs] = {
    "en": pairs_of("""big=small, hot=cold, long=short, high=low, fast=slow, old=young, new=old, good=bad, happy=sad, rich=poor,
        light=dark, day=night, left=right, up=down, open=closed, full=empty, wet=dry, hard=soft, strong=weak, early=late,
        near=far, thick=thin, clean=dirty, loud=quiet, easy=difficult, black=white, yes=no, inside=outside, first=last,
        heavy=light, sweet=bitter, win=lose, begin=end, buy=sell, come=go, summer=winter"""),
    "zh": pairs_of("""大=小, 热=冷, 长=短, 高=低, 快=慢, 老=年轻, 新=旧, 好=坏, 高兴=难过, 富=穷, 亮=暗, 白天=黑夜, 左=右, 上=下, 开=关, 满=空,
        湿=干, 硬=软, 强=弱, 早=晚, 近=远, 厚=薄, 干净=脏, 吵闹=安静, 容易=困难, 黑=白, 是=否, 里=外, 前=后, 重=轻, 甜=苦, 赢=输,
        开始=结束, 买=卖, 来=去, 夏天=冬天"""),
}
CAPITALS: dict[Language, Pairs] = {
    "en": pairs_of("""China=Beijing, France=Paris, Japan=Tokyo, England=London, Germany=Berlin, Italy=Rome, Spain=Madrid, Russia=Moscow,
        Egypt=Cairo, Greece=Athens, Portugal=Lisbon, Austria=Vienna, Poland=Warsaw, Norway=Oslo, Sweden=Stockholm, Finland=Helsinki,
        Denmark=Copenhagen, Ireland=Dublin, India=New Delhi, Thailand=Bangkok, Vietnam=Hanoi, South Korea=Seoul, Canada=Ottawa,
        Australia=Canberra, the United States=Washington, Mexico=Mexico City, Turkey=Ankara, Hungary=Budapest, Cuba=Havana,
        Peru=Lima, Kenya=Nairobi, Switzerland=Bern"""),
    "zh": pairs_of("""中国=北京, 法国=巴黎, 日本=东京, 英国=伦敦, 德国=柏林, 意大利=罗马, 西班牙=马德里, 俄罗斯=莫斯科, 埃及=开罗, 希腊=雅典,
        葡萄牙=里斯本, 奥地利=维也纳, 波兰=华沙, 挪威=奥斯陆, 瑞典=斯德哥尔摩, 芬兰=赫尔辛基, 丹麦=哥本哈根, 爱尔兰=都柏林, 印度=新德里, 泰国=曼谷,
        越南=河内, 韩国=首尔, 加拿大=渥太华, 澳大利亚=堪培拉, 美国=华盛顿, 墨西哥=墨西哥城, 土耳其=安卡拉, 匈牙利=布达佩斯, 古巴=哈瓦那, 秘鲁=利马,
        肯尼亚=内罗毕, 瑞士=伯尔尼"""),
}
SOUNDS: dict[Language, Pairs] = {
    "en": pairs_of(
        "cat=meow, dog=woof, cow=moo, sheep=baa, duck=quack, pig=oink, bee=buzz, snake=hiss, lion=roar, mouse=squeak"
    ),
    "zh": pairs_of("猫=喵喵, 狗=汪汪, 牛=哞哞, 羊=咩咩, 鸭子=嘎嘎, 蜜蜂=嗡嗡, 青蛙=呱呱, 鸡=咯咯, 小鸟=叽叽, 蛇=嘶嘶"),
}
COUNTS: dict[Language, Pairs] = {
    "en": pairs_of("""legs does a cat have=4, legs does a bird have=2, legs does a spider have=8, legs does an ant have=6,
        legs does a snake have=0, legs does a horse have=4, wheels does a bicycle have=2, wheels does a car have=4,
        days are in a week=7, months are in a year=12, hours are in a day=24, minutes are in an hour=60, seasons are in a year=4,
        fingers are on a hand=5, eyes does a person have=2, ears does a rabbit have=2, days are in a year=365,
        letters are in the alphabet=26, seconds are in a minute=60, sides does a triangle have=3, corners does a square have=4"""),
    "zh": pairs_of("""一只猫有几条腿=4, 一只鸟有几条腿=2, 一只蜘蛛有几条腿=8, 一只蚂蚁有几条腿=6, 一条蛇有几条腿=0, 一匹马有几条腿=4, 自行车有几个轮子=2,
        汽车有几个轮子=4, 一个星期有几天=7, 一年有几个月=12, 一天有多少小时=24, 一小时有多少分钟=60, 一年有几个季节=4, 一只手有几个手指=5,
        人有几只眼睛=2, 兔子有几只耳朵=2, 一年有多少天=365, 英文有多少个字母=26, 一分钟有多少秒=60, 三角形有几条边=3, 正方形有几个角=4"""),
}
USES: dict[Language, Pairs] = {
    "en": pairs_of("""write=a pen, cut paper=scissors, tell the time=a watch, drink tea=a cup, open a door=a key, take a picture=a camera,
        sweep the floor=a broom, eat soup=a spoon, keep dry in the rain=an umbrella, see in the dark=a lamp, call a friend=a phone,
        boil water=a kettle, climb on a roof=a ladder, hit a nail=a hammer, find the way=a map, dry your hands=a towel"""),
    "zh": pairs_of("""写字=钢笔, 剪纸=剪刀, 看时间=手表, 喝茶=杯子, 开门=钥匙, 拍照=相机, 扫地=扫帚, 喝汤=勺子, 挡雨=雨伞, 照明=台灯, 打电话=手机, 烧水=水壶,
        爬上屋顶=梯子, 敲钉子=锤子, 找路=地图, 擦手=毛巾"""),
}
DAYS: dict[Language, tuple[str, ...]] = {
    "en": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "zh": tuple("星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()),
}
MONTHS: dict[Language, tuple[str, ...]] = {
    "en": tuple("January February March April May June July August September October November December".split()),
    "zh": tuple("一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月".split()),
}

# Questions about one pair (x, y) of a table, and the sentence that answers: by language.
TEMPLATES: dict[str, dict[Language, tuple[tuple[str, ...], str]]] = {
    "colour": {
        "en": (
            ("What colour is {x}?", "Which colour is {x}?", "What is the colour of {x}?"),
            "The colour of {x} is {y}.",
        ),
        "zh": (("{x}是什么颜色的？", "{x}是什么颜色？", "{x}的颜色是什么？"), "{x}的颜色是{y}。"),
    },
    "opposite": {
        "en": (
            ("What is the opposite of {x}?", "Which word is the opposite of {x}?", "Opposite of {x}?"),
            "The opposite of {x} is {y}.",
        ),
        "zh": (("{x}的反义词是什么？", "“{x}”的反义词是什么？", "{x}的反义词是？"), "{x}的反义词是{y}。"),
    },
    "capital": {
        "en": (
            ("What is the capital of {x}?", "Which city is the capital of {x}?", "Name the capital of {x}."),
            "The capital of {x} is {y}.",
        ),
        "zh": (("{x}的首都是哪里？", "{x}的首都是哪个城市？", "{x}的首都是？"), "{x}的首都是{y}。"),
    },
    "sound": {
        "en": (("What sound does a {x} make?", "What does a {x} say?", "How does a {x} sound?"), "A {x} says {y}."),
        "zh": (("{x}怎么叫？", "{x}的叫声是什么样的？", "{x}是怎么叫的？"), "{x}的叫声是{y}。"),
    },
    "use": {
        "en": (
            ("What do you need to {x}?", "What do people use to {x}?", "What is used to {x}?"),
            "To {x} you need {y}.",
        ),
        "zh": (("{x}要用什么？", "用什么{x}？", "{x}需要什么东西？"), "{x}要用{y}。"),
    },
    "to_chinese": {
        "en": (
            ("What is {x} in Chinese?", "How do you say {x} in Chinese?", "Translate {x} into Chinese."),
            "{x} in Chinese is {y}.",
        ),
        "zh": (("{x}的中文是什么？", "{x}用中文怎么说？", "{x}是什么意思？"), "{x}的中文是{y}。"),
    },
    "to_english": {
        "en": (
            ("What is {x} in English?", "How do you say {x} in English?", "Translate {x} into English."),
            "{x} in English is {y}.",
        ),
        "zh": (("{x}的英文是什么？", "{x}用英语怎么说？", "把{x}翻译成英文"), "{x}的英文是{y}。"),
    },
    "after": {
        "en": (("What comes after {x}?", "What follows {x}?", "What is next after {x}?"), "After {x} comes {y}."),
        "zh": (("{x}的后面是什么？", "{x}之后是什么？", "{x}后面是什么？"), "{x}的后面是{y}。"),
    },
}
TRANSLATED = words.ANIMALS + words.FRUITS + words.VEGETABLES + words.COLOURS[:10] + words.FOODS + words.OBJECTS[:40]


def _from_pairs(rng: random.Random, language: Language, template: str, pairs: Pairs) -> Question:
    x, y = rng.choice(pairs)
    questions, sentence = TEMPLATES[template][language]
    wrong = tuple(dict.fromkeys(other for _, other in pairs if other not in (x, y)))
    text = rng.choice(questions).format(x=x, y=y)
    said = sentence.format(x=x, y=y)
    return Question(text, said[0].upper() + said[1:] if language == "en" else said, y, wrong)


def _both_ways(pairs: Pairs) -> Pairs:
    """The pairs and their mirror images, where those do not contradict a pair."""
    known = {x for x, _ in pairs}
    return pairs + tuple((y, x) for x, y in pairs if y not in known)


def _translation(rng: random.Random, language: Language) -> Question:
    to_english = rng.random() < 0.5
    pairs = tuple((zh, en) if to_english else (en, zh) for en, zh in TRANSLATED)
    return _from_pairs(rng, language, "to_english" if to_english else "to_chinese", pairs)


def _after(rng: random.Random, language: Language) -> Question:
    cycle = rng.choice((DAYS, DAYS, MONTHS))[language]
    return _from_pairs(rng, language, "after", tuple(zip(cycle, cycle[1:] + cycle[:1], strict=True)))


def _count(rng: random.Random, language: Language) -> Question:
    what, number = rng.choice(COUNTS[language])
    text = f"How many {what}?" if language == "en" else f"{what}？"
    wrong = tuple(other for other in ("2", "3", "4", "5", "6", "8", "10", "20") if other != number)
    return Question(text, _count_sentence(what, number, language), number, wrong)


def _count_sentence(what: str, number: str, language: Language) -> str:
    """ "legs does a cat have", "4" -> "A cat has 4 legs."; "days are in a week", "7" -> "There are 7 days in a week."."""
    if language == "zh":
        return what.replace("多少个", number + "个").replace("多少", number).replace("几", number) + "。"
    thing, rest = what.split(" ", 1)
    if rest.startswith("are "):
        return f"There are {number} {thing} {rest.removeprefix('are ')}."
    owner = rest.removeprefix("does ").removesuffix(" have")
    return f"{owner[0].upper()}{owner[1:]} has {number} {thing}."


def _what_is(rng: random.Random, language: Language) -> Question:
    english, chinese, pairs = rng.choice(CATEGORIES)
    others = tuple(category[0 if language == "en" else 1] for category in CATEGORIES if category[0] != english)
    word = rng.choice(side(pairs, language))
    if language == "zh":
        return Question(
            f"{word}{rng.choice(('是什么', '属于什么', '是哪一类'))}？", f"{word}是一种{chinese}。", chinese, others
        )
    said = word if english in ("colour", "drink") else words.a(word)
    text = rng.choice(("What is {x}?", "What kind of thing is {x}?", "What sort of thing is {x}?")).format(x=said)
    return Question(text, f"{said[0].upper()}{said[1:]} is {words.a(english)}.", english, others)


def _which_is(rng: random.Random, language: Language) -> Question:
    """A question that makes sense with options only; `question` leaves it out."""
    index = 0 if language == "en" else 1
    category = rng.choice(CATEGORIES)
    wrong = [word for other in CATEGORIES if other is not category for word in side(other[2], language)]
    word = rng.choice(side(category[2], language))
    name = category[index]
    if language == "en":
        text = rng.choice(("Which of these is {x}?", "Which one is {x}?", "Find {x}.")).format(x=words.a(name))
    else:
        text = rng.choice(("下面哪一个是{x}？", "哪个是{x}？", "下列哪一项是{x}？")).format(x=name)
    return Question(text, word, word, tuple(rng.sample(wrong, 8)))


OPEN: tuple[Callable[[random.Random, Language], Question], ...] = (
    lambda rng, language: _from_pairs(rng, language, "colour", COLOUR_OF[language]),
    lambda rng, language: _from_pairs(rng, language, "opposite", _both_ways(OPPOSITES[language])),
    lambda rng, language: _from_pairs(rng, language, "capital", CAPITALS[language]),
    lambda rng, language: _from_pairs(rng, language, "sound", SOUNDS[language]),
    lambda rng, language: _from_pairs(rng, language, "use", USES[language]),
    _translation,
    _after,
    _count,
    _what_is,
)


def question(rng: random.Random, language: Language) -> Question:
    """A question that can be asked openly."""
    return rng.choice(OPEN)(rng, language)


def question_with_options(rng: random.Random, language: Language) -> Question:
    """A question to put before options."""
    return rng.choice((*OPEN, _which_is, _which_is))(rng, language)


def talk(rng: random.Random, split: Split, language: Language) -> Talk:
    """An open question; expects the short answer. The facts are the same in both splits: they must be learnt."""
    asked = question(rng, language)
    return one_turn(vary(rng, asked.text), asked.sentence, asked.short)
