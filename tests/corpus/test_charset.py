from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.corpus.charset import decode_html

GERMAN = "<p>Grüße aus Köln – schön</p>"


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        (GERMAN.encode(), None, GERMAN),
        (b"\xef\xbb\xbf" + GERMAN.encode(), "windows-1251", GERMAN),
        (b"\xff\xfe" + GERMAN.encode("utf-16-le"), "utf-8", GERMAN),
        (b"\xfe\xff" + GERMAN.encode("utf-16-be"), None, GERMAN),
        (GERMAN.encode("utf-16-le"), None, GERMAN),  # no mark, no header
        (GERMAN.encode("utf-16-be"), "utf-16be", GERMAN),
        (GERMAN.encode("cp1252"), None, GERMAN),
        (GERMAN.encode("cp1252"), "ISO-8859-1", GERMAN),  # the label means windows-1252
        (GERMAN.encode(), "ISO-8859-1", GERMAN),  # a server's default, over a page that is UTF-8
        (GERMAN.encode(), "utf-16", GERMAN),  # a header that cannot be
        ("Привет, мир".encode("koi8-r"), " 'KOI8-R' ", "Привет, мир"),
        ("Привет".encode("cp1251"), "windows-1251", "Привет"),
        (b"<meta charset=windows-1251>" + "Привет".encode("cp1251"), None, "<meta charset=windows-1251>Привет"),
        (b'<?xml encoding="koi8-r"?>' + "Привет".encode("koi8-r"), None, '<?xml encoding="koi8-r"?>Привет'),
        (b"<!-- <meta charset=koi8-r> --><meta charset=gb2312>" + "中文網頁".encode("gb18030"), None,
         "<!-- <meta charset=koi8-r> --><meta charset=gb2312>中文網頁"),
        ("日本語のページ".encode("cp932"), "Shift_JIS", "日本語のページ"),
        ("日本語".encode("iso2022_jp"), "iso-2022-jp", "日本語"),
        (b"<meta charset=iso-2022-jp>" + "日本語".encode("iso2022_jp"), None, "<meta charset=iso-2022-jp>日本語"),
        ("한국어".encode("cp949"), "ks_c_5601-1987", "한국어"),
        ("שלום עולם".encode("cp1255"), "windows-1255", "שלום עולם"),
        (b"<meta charset=utf-16>" + GERMAN.encode(), None, "<meta charset=utf-16>" + GERMAN),
        (b"<meta charset=zlib>" + GERMAN.encode("cp1252"), "idna", "<meta charset=zlib>" + GERMAN),
        (b"<meta charset=utf-8>" + GERMAN.encode("cp1252"), "utf-8", "<meta charset=utf-8>" + GERMAN),  # both wrong
        (GERMAN.encode() * 20 + b"\xc3", None, GERMAN * 20 + "\ufffd"),  # cut within a letter
        (b"a\0b", None, "ab"),
        (b"", None, ""),
        (b"", "utf-16", ""),
    ],
)  # fmt: skip
def test_pages_are_decoded_as_browsers_do(data: bytes, declared: str | None, text: str) -> None:
    assert decode_html(data, declared) == text


@given(
    st.binary(max_size=300),
    st.none() | st.text(max_size=12) | st.sampled_from(["utf-8", "utf-16", "big5", "hz", "rot13"]),
)
def test_nothing_raises_and_the_text_is_whole(data: bytes, declared: str | None) -> None:
    text = decode_html(data, declared)
    assert "\0" not in text
    text.encode()


@given(st.text().filter(lambda text: "\0" not in text and not text.startswith("\ufeff")))
def test_utf8_is_utf8(text: str) -> None:
    if "\x1b" not in text:
        assert decode_html(text.encode()) == text


@pytest.mark.parametrize(("text", "encodings"), [
    ("Сад лежит за домом, и никто не знает, кто его сделал. Весной мы сажаем бобы вдоль стены. "
     "Летом воду носят из колодца.", "cp1251 koi8_r cp866 iso8859_5"),
    ("Сад лежить за будинком, і ніхто не знає, хто його зробив. Навесні ми садимо боби вздовж "
     "стіни, їх їдять.", "cp1251 koi8_u"),
    ("Ο κήπος βρίσκεται πίσω από το σπίτι και κανείς δεν ξέρει ποιος τον έφτιαξε. Την άνοιξη "
     "φυτεύουμε φασόλια.", "cp1253 iso8859_7"),
    ("הגן נמצא מאחורי הבית ואיש אינו יודע מי עשה אותו. באביב אנחנו זורעים שעועית לאורך הקיר.", "cp1255"),
    ("تقع الحديقة خلف المنزل ولا أحد يعرف من صنعها. في الربيع نزرع"
     " الفول على طول الجدار.", "cp1256 iso8859_6"),
    ("สวนอยู่หลังบ้านและไม่มีใครรู้ว่าใครเป็นคนทำ ในฤดูใบไม้ผลิเราปลูกถั่วตามแนวกำแพง", "cp874"),
    ("庭は家の後ろにあり、誰が作ったのか誰も知りません。春には壁に沿って豆をまきます。", "cp932 euc_jp"),
    ("花园在房子后面，没有人知道是谁建的。春天我们沿着墙种豆子，这样风就吹不到它们了。", "gb18030"),
    ("花園在房子後面，沒有人知道是誰建的。春天我們沿著牆種豆子，這樣風就吹不到它們了。", "big5hkscs"),
    ("정원은 집 뒤에 있고 누가 만들었는지 아무도 모른다. 봄에는 벽을 따라 콩을 심는다.", "cp949"),
    ("Ogród leży za domem i nikt nie wie, kto go założył. Wiosną sadzimy fasolę wzdłuż ściany, "
     "gdzie wiatr jej nie dosięga, a później są jabłka. Część źródeł mówi, że było świątynią.", "cp1250 iso8859_2"),
    ("Zahrada leží za domem a nikdo neví, kdo ji založil. Na jaře sázíme fazole podél zdi, kde "
     "na ně nefouká vítr, žáci je jedí.", "cp1250 iso8859_2"),
    ("A kert a ház mögött fekszik, és senki sem tudja, ki csinálta. Tavasszal babot vetünk a fal"
     " mentén, ahol nem éri a szél őket.", "cp1250"),
    ("Bahçe evin arkasındadır ve onu kimin yaptığını kimse bilmez. İlkbaharda duvar boyunca "
     "fasulye ekiyoruz, rüzgâr ulaşamaz.", "cp1254"),
    ("Der Garten liegt hinter dem Haus, und er ist für alle da. Im Frühling säen wir Bohnen an "
     "der Mauer, natürlich größere.", "cp1252"),
    ("Le jardin est derrière la maison et personne ne sait qui l’a créé. Au printemps, nous "
     "semons des haricots, très tôt.", "cp1252"),
    ("El jardín está detrás de la casa y nadie sabe quién lo hizo. En otoño, más tarde, el niño "
     "recogió manzanas. ¿Cuándo?", "cp1252"),
    ("The garden’s behind the house – “nobody” knows who made it… It’s £5 or €6 — café naïve.", "cp1252"),
    ("Trädgården ligger bakom huset och ingen vet vem som gjorde den. På våren sår vi bönor "
     "längs väggen, där är lä.", "cp1252"),
    ("O jardim fica atrás da casa e ninguém sabe quem o fez. Na primavera, plantamos feijão ao "
     "longo do muro, não é? Então são maçãs.", "cp1252"),
])  # fmt: skip
def test_a_page_that_states_no_encoding_is_read_by_what_it_says(text: str, encodings: str) -> None:
    for codec in encodings.split():
        page = f"<html><body class=x><p>{text}</p><script>var a = 1</script></body></html>".encode(codec, "ignore")
        assert decode_html(page) == page.decode(codec), codec


def test_bytes_that_speak_for_no_encoding_are_windows_1252() -> None:
    data = bytes(range(0x80, 0x100)) * 20
    assert decode_html(data) == data.decode("cp1252", "replace")
    assert decode_html(b"caf\xe9") == "caf\xe9"
