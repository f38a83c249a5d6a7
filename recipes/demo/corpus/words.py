"""Everyday words in both languages, by category: what the generators talk about."""

from __future__ import annotations

from recipes.demo.corpus.conversation import Language

Pairs = tuple[tuple[str, str], ...]


def pairs_of(text: str) -> Pairs:
    """ "cat=猫, dog=狗" -> (("cat", "猫"), ("dog", "狗"))."""
    items = (item.strip().split("=") for item in text.split(","))
    return tuple((" ".join(left.split()), right) for left, right in items)


ANIMALS = pairs_of("""cat=猫, dog=狗, bird=鸟, fish=鱼, horse=马, cow=牛, sheep=羊, pig=猪, rabbit=兔子, mouse=老鼠, tiger=老虎,
    lion=狮子, elephant=大象, monkey=猴子, bear=熊, panda=熊猫, fox=狐狸, wolf=狼, duck=鸭子, chicken=鸡, goose=鹅, frog=青蛙,
    snake=蛇, turtle=乌龟, bee=蜜蜂, ant=蚂蚁, spider=蜘蛛, butterfly=蝴蝶, whale=鲸鱼, penguin=企鹅, camel=骆驼, giraffe=长颈鹿""")
FRUITS = pairs_of("""apple=苹果, banana=香蕉, pear=梨, orange=橙子, grape=葡萄, peach=桃子, lemon=柠檬, cherry=樱桃, mango=芒果,
    strawberry=草莓, watermelon=西瓜, pineapple=菠萝, plum=李子, melon=甜瓜""")
VEGETABLES = pairs_of("""carrot=胡萝卜, potato=土豆, tomato=番茄, onion=洋葱, cabbage=白菜, cucumber=黄瓜, pumpkin=南瓜, pepper=辣椒,
    spinach=菠菜, bean=豆角""")
FOODS = pairs_of("""rice=米饭, bread=面包, noodles=面条, soup=汤, dumplings=饺子, cheese=奶酪, cake=蛋糕, pizza=披萨, egg=鸡蛋,
    tofu=豆腐, salad=沙拉, chocolate=巧克力""")
DRINKS = pairs_of("water=水, tea=茶, coffee=咖啡, milk=牛奶, juice=果汁, beer=啤酒, cola=可乐")
COLOURS = pairs_of("""red=红色, blue=蓝色, green=绿色, yellow=黄色, white=白色, black=黑色, brown=棕色, pink=粉色, purple=紫色,
    grey=灰色, orange=橙色, golden=金色, silver=银色""")
OBJECTS = pairs_of("""key=钥匙, book=书, pen=钢笔, cup=杯子, hat=帽子, bag=包, umbrella=雨伞, lamp=台灯, clock=闹钟, chair=椅子,
    table=桌子, phone=手机, camera=相机, wallet=钱包, watch=手表, ball=球, map=地图, letter=信, box=盒子, knife=刀, spoon=勺子,
    plate=盘子, bottle=瓶子, mirror=镜子, candle=蜡烛, pencil=铅笔, scissors=剪刀, ring=戒指, coat=外套, shirt=衬衫, shoe=鞋子,
    scarf=围巾, glove=手套, towel=毛巾, blanket=毯子, pillow=枕头, ticket=票, guitar=吉他, violin=小提琴, piano=钢琴,
    computer=电脑, notebook=笔记本, basket=篮子, broom=扫帚, ladder=梯子, hammer=锤子, kettle=水壶, radio=收音机""")
PLACES = pairs_of("""kitchen=厨房, garden=花园, bedroom=卧室, office=办公室, library=图书馆, school=学校, garage=车库,
    bathroom=浴室, cellar=地下室, attic=阁楼, hall=大厅, shop=商店, museum=博物馆, park=公园, station=车站, hotel=酒店,
    drawer=抽屉, cupboard=柜子, living room=客厅, hospital=医院, market=市场, theatre=剧院, bakery=面包店, harbour=港口""")
VEHICLES = pairs_of("car=汽车, bus=公交车, train=火车, plane=飞机, boat=船, bicycle=自行车, truck=卡车, ship=轮船")
CLOTHES = pairs_of("coat=外套, shirt=衬衫, hat=帽子, scarf=围巾, shoe=鞋子, glove=手套, skirt=裙子, sweater=毛衣")
JOBS = pairs_of("""teacher=老师, doctor=医生, nurse=护士, cook=厨师, driver=司机, farmer=农民, painter=画家, singer=歌手, writer=作家,
    baker=面包师, gardener=园丁, librarian=图书管理员, pilot=飞行员, sailor=水手, tailor=裁缝, engineer=工程师, lawyer=律师,
    dentist=牙医, waiter=服务员, musician=音乐家, photographer=摄影师, carpenter=木匠, postman=邮递员, shopkeeper=店主,
    firefighter=消防员, dancer=舞蹈家, actor=演员, journalist=记者, mechanic=修理工, guide=导游, coach=教练, poet=诗人""")
HOBBIES = pairs_of("""reading=看书, swimming=游泳, cooking=做饭, singing=唱歌, dancing=跳舞, painting=画画, running=跑步, fishing=钓鱼,
    hiking=爬山, gardening=种花, chess=下棋, football=踢足球, basketball=打篮球, tennis=打网球, photography=摄影, travelling=旅行""")
ADJECTIVES = pairs_of("""friendly=友好, cheerful=开朗, patient=耐心, clever=聪明, kind=善良, calm=沉稳, funny=幽默, polite=礼貌, brave=勇敢,
    gentle=温柔, honest=诚实, curious=好奇, wise=睿智, lively=活泼, careful=细心, warm=热情""")
SHADES = pairs_of("light=浅, dark=深, bright=亮, pale=淡")


def side(pairs: Pairs, language: Language) -> tuple[str, ...]:
    """One language's column of a table."""
    return tuple(pair[0 if language == "en" else 1] for pair in pairs)


def a(noun: str) -> str:
    """The noun with its indefinite article; a plural or a mass noun stays as it is."""
    if noun in {"scissors", "noodles", "dumplings", "rice", "bread", "soup", "cheese", "chocolate", "tofu"}:
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun
