"""Real text in many scripts: article 1 of the Universal Declaration of Human Rights, and more."""

ARTICLE_1 = {
    "Latin": "All human beings are born free and equal in dignity and rights. They are endowed "
    "with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "Cyrillic": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они "
    "наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "Han": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "Arabic": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميراً "
    "وعليهم أن يعامل بعضهم بعضاً بروح الإخاء.",
    "Devanagari": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता "
    "प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Hangul": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "Hiragana": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等で"
    "ある。",
}

ODDITIES = (
    "def f(x):\n\treturn {'a': [1, 22, 333, 4444]}  # ok\r\n\r\n\n   \n"
    "👩‍👩‍👧‍👦 🇺🇳 🙂 naïve café cafe\u0301 ﬁ Å \x00\x1b[31m\u202e\u200d"
    " <think>x</think> <|eot_id|> <s> [INST] <0x0A> ▁ ␣ \ufeff"
    f"{'=' * 70}{' ' * 40}{'ab' * 30} 12345678901234567890 don't WE'LL\n"
)

PROSE = "\n\n".join([*ARTICLE_1.values(), ODDITIES, *ARTICLE_1.values()]) + "\n"
