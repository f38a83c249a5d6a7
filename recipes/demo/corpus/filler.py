"""Sentences about nobody in particular, among which a fact is hidden."""

from __future__ import annotations

import random

from recipes.demo.corpus.conversation import Language

SENTENCES: dict[Language, tuple[str, ...]] = {
    "en": (
        "It rained a little in the morning.",
        "The market was full of people.",
        "A bus stopped at the corner and drove on.",
        "The trees along the street were already green.",
        "Somebody was playing the piano behind an open window.",
        "The shops close early on Sundays.",
        "There was a smell of fresh bread in the air.",
        "The wind was cool, but the sun was warm.",
        "Two children were feeding the ducks by the pond.",
        "The old bridge was painted again last summer.",
        "A cat slept on the wall and did not move.",
        "In the evening the lamps were lit one after another.",
        "Nobody could say how old the tower was.",
        "The train was a few minutes late.",
        "Later the clouds went away and the sky was blue.",
        "The river runs slowly through the valley.",
        "On the table there were flowers and a newspaper.",
        "The coffee was hot and the cake was sweet.",
        "Everybody talked about the weather.",
        "A small boat crossed the lake.",
        "The road up the hill is narrow and steep.",
        "The last guests went home before midnight.",
        "The bells rang and the pigeons flew up.",
        "It was a quiet day, and there was little to do.",
        "The snow had melted, but the nights were still cold.",
        "Some people were waiting in front of the door.",
        "The music was soft and nobody spoke.",
        "A dog barked somewhere far away.",
        "The windows were open because of the heat.",
        "The fields were yellow and the harvest was near.",
        "A letter lay on the floor, but it was empty.",
        "The news on the radio was mostly good.",
        "It takes half an hour to walk to the sea.",
        "The stairs are made of stone.",
        "The garden is at its best in spring.",
        "They drank tea and looked at old pictures.",
        "The film was long, but it was worth it.",
        "Nothing else happened that day.",
        "The road was closed, so everybody took the path.",
        "The moon rose over the roofs.",
    ),
    "zh": (
        "早上下了一点小雨。",
        "市场里人来人往，十分热闹。",
        "一辆公交车在路口停了一下，又开走了。",
        "街边的树已经绿了。",
        "有人在窗边弹琴，声音很轻。",
        "星期天商店关门很早。",
        "空气里有刚出炉的面包香。",
        "风有点凉，太阳却很暖和。",
        "两个孩子在池塘边喂鸭子。",
        "那座老桥去年夏天重新刷过漆。",
        "一只小猫趴在墙头睡觉，一动不动。",
        "到了傍晚，街灯一盏一盏亮了起来。",
        "谁也说不清那座塔有多少年了。",
        "火车晚点了几分钟。",
        "后来云散了，天空一片蔚蓝。",
        "小河慢慢地流过山谷。",
        "桌上放着鲜花和一份报纸。",
        "茶还是热的，点心也很甜。",
        "大家都在聊天气。",
        "湖面上划过一条小船。",
        "上山的路又窄又陡。",
        "最后一批客人半夜前就回家了。",
        "钟声一响，鸽子都飞了起来。",
        "这一天很安静，没有什么事可做。",
        "雪已经化了，夜里还是有点冷。",
        "门口有几个人在排队。",
        "音乐很柔和，没有人说话。",
        "远处传来几声狗叫。",
        "天气太热，窗户都开着。",
        "田里一片金黄，快要收割了。",
        "地上有一个信封，里面是空的。",
        "广播里的消息大多是好消息。",
        "走到海边大约要半个小时。",
        "台阶是用石头砌成的。",
        "春天的花园最好看。",
        "他们一边喝茶，一边看老照片。",
        "电影很长，不过很值得看。",
        "那天再没有别的事发生。",
        "大路封了，大家只好走小路。",
        "月亮从屋顶后面升了起来。",
    ),
}


def sentences(rng: random.Random, language: Language, count: int) -> list[str]:
    """`count` sentences; none twice until all have been used."""
    every = SENTENCES[language]
    chosen: list[str] = []
    while len(chosen) < count:
        chosen += rng.sample(every, min(len(every), count - len(chosen)))
    return chosen
