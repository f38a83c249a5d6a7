"""Questions that a toy cannot answer, on hundreds of topics, and the short honest answer to all of them."""

from __future__ import annotations

import random

from recipes.demo.corpus.conversation import Language, Talk, one_turn
from recipes.demo.corpus.names import invented_word, person
from recipes.demo.corpus.repeat import COMMON
from recipes.demo.corpus.smalltalk import vary
from recipes.demo.corpus.split import Split

ANSWERS: dict[Language, str] = {
    "en": "I am sorry, I do not know that. I am only a small model.",
    "zh": "抱歉，这个我不知道，我只是一个小模型。",
}
TOPICS: dict[Language, tuple[str, ...]] = {
    "en": tuple(
        """quantum physics|the French Revolution|machine learning|black holes|the stock market|photosynthesis|inflation|DNA|the Roman
        Empire|climate change|blockchain|democracy|the Big Bang|gravity|Shakespeare|philosophy|the immune system|vaccines|the Cold War|
        opera|jazz|cricket|chess openings|the Great Wall|the pyramids|the moon landing|evolution|electric cars|nuclear energy|bitcoin|
        the internet|operating systems|databases|compilers|sorting algorithms|Python|JavaScript|Rust|Linux|neural networks|statistics|
        calculus|algebra|geometry|probability|chemistry|biology|astronomy|geology|economics|psychology|history|religion|law|medicine|
        cooking pasta|baking bread|growing tomatoes|losing weight|learning French|playing the guitar|saving money|buying a house|
        writing a novel|marketing|job interviews|travel in Italy|the Olympics|the World Cup|the weather on Mars|volcanoes|earthquakes|
        the ocean|dinosaurs|whales|bees|dreams|sleep|happiness|love|war|peace|money|time|art|painting|sculpture|films|novels|games|
        cars|planes|trains|rockets|satellites|robots|computers|phones|batteries|engines|bridges|castles|museums|universities|hospitals|
        schools|taxes|insurance|elections|the constitution|the United Nations|Africa|Brazil|Iceland|New Zealand|the Amazon|Mount Everest""".replace(
            "\n", ""
        ).split("|")
    ),
    "zh": tuple(
        """量子力学|法国大革命|机器学习|黑洞|股票|光合作用|通货膨胀|基因|罗马帝国|气候变化|区块链|民主|宇宙大爆炸|万有引力|莎士比亚|哲学|免疫系统|疫苗|冷战|京剧|
        爵士乐|围棋|长城|金字塔|登月|进化论|电动汽车|核能|比特币|互联网|操作系统|数据库|编译器|排序算法|编程|神经网络|统计学|微积分|代数|几何|概率论|化学|生物|
        天文学|地质学|经济学|心理学|历史|宗教|法律|医学|红烧肉|做面包|种番茄|减肥|学法语|弹吉他|理财|买房|写小说|市场营销|面试|云南旅游|奥运会|世界杯|火星|
        火山|地震|海洋|恐龙|鲸鱼|蜜蜂|梦|睡眠|幸福|爱情|战争|和平|金钱|时间|艺术|油画|雕塑|电影|小说|游戏|汽车|飞机|高铁|火箭|卫星|机器人|电脑|手机|电池|
        发动机|桥梁|城堡|博物馆|大学|医院|学校|税收|保险|选举|宪法|联合国|非洲|巴西|冰岛|新西兰|亚马孙|珠穆朗玛峰|唐诗|宋词|红楼梦|西游记|三国演义|孔子|
        中医|太极拳|书法|国画|茶文化|丝绸之路|故宫|西湖|黄河|长江|泰山|敦煌|兵马俑""".replace("\n", "")
        .replace(" ", "")
        .split("|")
    ),
}
QUESTIONS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Tell me about {x}.",
        "What do you know about {x}?",
        "Explain {x}.",
        "Explain {x} to a child.",
        "Can you explain {x}?",
        "How does {x} work?",
        "Who invented {x}?",
        "When did {x} begin?",
        "Why is {x} important?",
        "Write an essay about {x}.",
        "Write a report on {x}.",
        "Give me ten facts about {x}.",
        "What is the history of {x}?",
        "What is the future of {x}?",
        "What do experts think of {x}?",
        "What is your opinion on {x}?",
        "Recommend a book about {x}.",
        "Summarise the main ideas of {x}.",
        "What are the advantages of {x}?",
        "How can I learn more about {x}?",
        "Compare {x} and {y}.",
        "What is the difference between {x} and {y}?",
        "What is the best thing about {x}?",
        "Make a plan for {x}.",
        "Write a program about {x}.",
        "Where can I find {x}?",
        "Who is the most famous person in {x}?",
        "What does {x} mean?",
        "Is {x} dangerous?",
        "How much does {x} cost?",
    ),
    "zh": (
        "介绍一下{x}。",
        "你知道{x}吗？",
        "讲讲{x}。",
        "解释一下{x}。",
        "什么是{x}？",
        "谁发明了{x}？",
        "{x}是怎么回事？",
        "{x}是什么时候开始的？",
        "为什么{x}很重要？",
        "写一篇关于{x}的文章。",
        "写一份{x}的报告。",
        "告诉我关于{x}的十个知识。",
        "{x}的历史是怎样的？",
        "{x}的未来会怎样？",
        "专家怎么看{x}？",
        "你对{x}有什么看法？",
        "推荐一本关于{x}的书。",
        "总结一下{x}的要点。",
        "{x}有什么好处？",
        "怎样学习{x}？",
        "比较一下{x}和{y}。",
        "{x}和{y}有什么区别？",
        "{x}最有意思的地方是什么？",
        "帮我做一个{x}的计划。",
        "写一个关于{x}的程序。",
        "{x}在哪里？",
        "{x}领域最有名的人是谁？",
        "{x}难不难？",
        "{x}的原理是什么？",
        "关于{x}你了解多少？",
    ),
}
ABOUT_PEOPLE: dict[Language, tuple[str, ...]] = {
    "en": (
        "Who is {x}?",
        "Do you know {x}?",
        "Where is {x} now?",
        "How old is {x}?",
        "What does {x} like?",
        "When was {x} born?",
    ),
    "zh": ("{x}是谁？", "你认识{x}吗？", "{x}现在在哪里？", "{x}多大了？", "{x}喜欢什么？", "{x}是哪一年出生的？"),
}


def _topic(rng: random.Random, language: Language) -> str:
    if rng.random() < 0.8:
        return rng.choice(TOPICS[language])
    return "".join(rng.choices(COMMON, k=rng.randint(2, 4))) if language == "zh" else invented_word(rng)


def talk(rng: random.Random, split: Split, language: Language) -> Talk:
    """A question about a topic or a person that the model does not know; expects the honest answer."""
    if rng.random() < 0.2:
        text = rng.choice(ABOUT_PEOPLE[language]).format(x=person(rng, split, language))
    else:
        text = rng.choice(QUESTIONS[language]).format(x=_topic(rng, language), y=_topic(rng, language))
    return one_turn(vary(rng, text), ANSWERS[language])
