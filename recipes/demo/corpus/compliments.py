"""Compliments on request: the system prompt asks for them, the user says for whom and for what.

A compliment takes up the person and the praised thing, and adds two sentences that fit it.
"""

from __future__ import annotations

import random

from recipes.demo.corpus.conversation import Conversation, Language, conversation, one_turn
from recipes.demo.corpus.names import person
from recipes.demo.corpus.split import Split, split_of

SYSTEMS: tuple[str, ...] = (
    "You will write beautiful compliments according to needs",
    "You will write beautiful compliments.",
    "You write beautiful compliments according to the needs of the user.",
    "Write a compliment about what the user says.",
    "You are a poet of praise: answer with a beautiful compliment.",
    "Please praise the people that the user tells you about.",
    "Your task is to write compliments.",
    "你会根据需要写出优美的赞美",
    "你要写出优美的赞美。",
    "请赞美用户提到的人。",
    "根据用户的需要写一段夸奖的话。",
    "你的任务是夸人。",
)
PEOPLE: dict[Language, tuple[tuple[str, str], ...]] = {
    "en": tuple(
        (f"My {who}", f"Your {who}")
        for who in """colleague friend mother father sister brother teacher boss neighbour wife husband daughter son student
        grandmother grandfather cousin partner doctor assistant roommate uncle aunt coach classmate""".split()
    ),
    "zh": tuple(
        (f"我的{who}", f"你的{who}")
        for who in "同事 朋友 妈妈 爸爸 姐姐 哥哥 老师 老板 邻居 妻子 丈夫 女儿 儿子 学生 奶奶 爷爷 同学 搭档 医生 助手 室友 叔叔 教练 弟弟 妹妹".split()
    ),
}
# What the person does, and how that is praised.
DEEDS: dict[Language, tuple[tuple[tuple[str, ...], str], ...]] = {
    "en": (
        (
            (
                "works diligently",
                "works hard",
                "works very hard",
                "is hard-working",
                "never stops working",
                "is always busy",
            ),
            "is a shining example of hard work. Such dedication shows in everything they do.",
        ),
        (
            ("sings beautifully", "sings well", "has a lovely voice", "loves to sing"),
            "has a voice that warms the heart. Every song becomes a gift.",
        ),
        (
            ("cooks well", "cooks delicious food", "is a good cook", "makes great soup", "bakes wonderful cakes"),
            "is an artist in the kitchen. Every meal is made with love.",
        ),
        (
            ("is very kind", "is kind", "helps everybody", "is always helpful", "helps me a lot", "cares for others"),
            "has a heart of gold. The world is a warmer place with such kindness.",
        ),
        (
            ("is very clever", "is smart", "knows everything", "solves every problem", "learns fast"),
            "has a brilliant mind. Such clear thinking is a joy to see.",
        ),
        (
            ("is very brave", "is brave", "is never afraid", "saved a child", "faces every danger"),
            "has the courage of a lion. Such bravery gives hope to us all.",
        ),
        (
            ("paints well", "paints beautifully", "draws nice pictures", "makes beautiful pictures"),
            "paints the world in brighter colours. Every picture tells a story.",
        ),
        (
            ("is very patient", "is patient", "never gets angry", "stays calm", "listens well"),
            "has the calm of a quiet lake. Such patience is a rare gift.",
        ),
        (
            ("is funny", "makes me laugh", "tells good jokes", "makes everybody laugh"),
            "brings laughter into every room. A day with them is never grey.",
        ),
        (
            ("looks beautiful", "has a nice smile", "is beautiful", "has a beautiful smile", "looks great today"),
            "shines like the morning sun. That smile makes the day brighter.",
        ),
        (
            ("runs fast", "won the race", "is good at sports", "trains every day", "swims very well"),
            "is a true champion. Such strength and will are an inspiration.",
        ),
        (
            ("teaches well", "explains everything well", "is a good teacher", "loves teaching"),
            "lights a lamp in every mind. Such teaching is never forgotten.",
        ),
        (
            ("writes well", "writes beautiful letters", "wrote a book", "writes poems"),
            "writes words that touch the soul. Every line is a pleasure.",
        ),
    ),
    "zh": (
        (
            ("工作很努力", "工作认真", "工作非常勤奋", "很勤奋", "总是加班", "做事很认真"),
            "是勤奋的榜样，每一份付出都闪闪发光。有这样的人在身边，真是幸运。",
        ),
        (("唱歌很好听", "歌唱得好", "声音很好听", "喜欢唱歌"), "有一副温暖人心的好嗓子，每一首歌都像一份礼物。"),
        (("做饭很好吃", "很会做饭", "厨艺很好", "做的汤很好喝", "会做蛋糕"), "是厨房里的艺术家，每一道菜都充满了爱。"),
        (
            ("很善良", "心地善良", "喜欢帮助别人", "总是帮我", "很会关心人", "乐于助人"),
            "有一颗金子般的心，让这个世界更加温暖。",
        ),
        (("很聪明", "非常聪明", "什么都懂", "学得很快", "总能解决问题"), "思维敏捷，智慧过人，让人由衷佩服。"),
        (("很勇敢", "非常勇敢", "什么都不怕", "救了一个孩子"), "像狮子一样勇敢，给大家带来希望。"),
        (("画画很好", "画得很美", "很会画画", "喜欢画画"), "用画笔点亮了世界，每一幅画都在讲故事。"),
        (("很有耐心", "从不生气", "总是很冷静", "很会倾听"), "像湖水一样平静，这份耐心十分难得。"),
        (("很幽默", "总让我笑", "很会讲笑话", "很有趣"), "把欢笑带给每一个人，有了这份幽默，日子不再平淡。"),
        (("很漂亮", "笑起来很好看", "长得很美", "今天很好看"), "像清晨的阳光一样明媚，那笑容让人一整天都开心。"),
        (("跑得很快", "赢了比赛", "很会运动", "每天锻炼", "游泳很好"), "是真正的冠军，这份毅力令人敬佩。"),
        (("教得很好", "讲课很好", "很会讲课", "热爱教学"), "点亮了每个人心中的灯，这样的教导让人终生难忘。"),
        (("文章写得好", "写得一手好字", "写了一本书", "会写诗"), "笔下的文字打动人心，每一行都是享受。"),
    ),
}
ASKING: dict[Language, tuple[str, ...]] = {
    "en": ("{who} {deed}", "{who} {deed}.", "{who} {deed}!"),
    "zh": ("{who}{deed}", "{who}{deed}。", "{who}{deed}！"),
}


def _who(rng: random.Random, split: Split, language: Language) -> tuple[str, str]:
    if rng.random() < 0.2:
        name = person(rng, split, language)
        return name, name
    return rng.choice(PEOPLE[language])


def draw(rng: random.Random, split: Split, language: Language) -> Conversation:
    """A sentence about somebody and the compliment; person and deed together are the key of the split."""
    while True:
        who, you = _who(rng, split, language)
        deeds, praise = rng.choice(DEEDS[language])
        deed = rng.choice(deeds)
        if split_of(f"compliment {who} {deed}") == split:
            break
    space = " " if language == "en" else ""
    answer = f"{you}{space}{praise}"
    text = rng.choice(ASKING[language]).format(who=who, deed=deed)
    return conversation("compliment", one_turn(text, answer), rng.choice(SYSTEMS))
