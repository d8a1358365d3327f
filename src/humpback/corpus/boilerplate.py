"""What of a page is not its main content: rules for elements, and rules for blocks of text.

In: an element's tag, role, id, class and style; then the page's blocks with their measures. Out: the rule that drops one, or
None. An element's rule drops all below it; no rule needs more than the element, so a page is walked once.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = [
    "DROPPED_TAGS",
    "VOID_TAGS",
    "dropped_names",
    "dropped_role",
    "hidden_style",
    "noise_header",
    "noise_text",
    "others_header",
]

DROPPED_TAGS = frozenset(
    "script style noscript template svg math-ml iframe object embed applet canvas video audio map "
    "nav aside footer dialog menu menuitem button select textarea input datalist optgroup option progress meter figcaption "
    "head title meta link base frame frameset noframes noembed img picture source track area param rp rt".split()
)
"""Elements that never hold main content."""
VOID_TAGS = frozenset("img input meta link base source track area param embed frame".split())
"""Elements that cannot hold text."""

_ROLES = frozenset(
    "navigation banner contentinfo complementary search menu menubar toolbar dialog alertdialog alert "
    "tooltip button img status".split()
)

# Words of ids and class names. A name is cut at anything that is no letter, and where a capital begins.
_NAMES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SURE = frozenset(
    """
    nav navi navbar navigation navigational navbox subnav sidenav topnav mainnav menu menus submenu mainmenu topmenu megamenu
    navheader navfooter docnav breadcrumb breadcrumbs crumb crumbs breadcrumbtrail pager pagination
    paginator pagenav footer foot colophon siteinfo impressum
    sidebar sidebars sidecol sidecolumn sidebarleft rightbar leftbar comment comments commentlist kommentar kommentare respond
    disqus livefyre cookie cookies consent gdpr onetrust cookiebar cookiebanner share sharing shares sharebar sharedaddy social
    socials addthis addtoany sharethis shariff socialmedia facebook whatsapp related relatedposts recommended recommendations
    recommendation alsolike outbrain taboola promo promos promotion ad ads adv advert adverts advertisement advertising adsense
    adslot banner banners sponsor sponsored sponsors werbung anzeige anzeigen newsletter subscribe subscription signup login
    signin register registration popup modal overlay lightbox tooltip dropdown offcanvas toolbar toolbox masthead topbar toplinks
    bottomlinks skiplink skiplinks skip screenreader rating ratings votes vote poll tagcloud taglist blogroll searchform searchbox
    printfriendly editsection catlinks copyright disclaimer byline dateline timestamp pubdate postmeta entrymeta postinfo
    entryutility invisible noprint caption
    """.split()
)
"""Names of parts that help to get around, or that others wrote."""
_SMALL = frozenset(
    """
    rating ratings votes vote byline dateline timestamp pubdate postmeta entrymeta postinfo entryutility copyright disclaimer
    banner promo promos promotion related recommended recommendations foot menu menus overlay modal dropdown subscribe subscription
    register facebook social skip toolbar cookie ad ads adv subnav offcanvas share shares sharing nav navi navigation sidebar
    sidebars comment kommentar invisible lightbox popup sponsored anzeige anzeigen noprint masthead caption
    """.split()
)
"""Of these, the names that also stand on what wraps the main content: dropped only when there is little text in it."""
_EXEMPT = frozenset(
    "has with without no not is hasno nosidebar body html wrapper page site container layout main article".split()
)
"""Beside one of these a name says how the page is laid out: `has-sidebar`, `main-menu-open`."""


def dropped_role(role: str | None) -> bool:
    return role in _ROLES


def hidden_style(style: str | None) -> bool:
    """Tell whether an inline style hides the element."""
    if not style or ("none" not in style and "hidden" not in style):
        return False
    plain = style.replace(" ", "").lower()
    return "display:none" in plain or "visibility:hidden" in plain


@lru_cache(maxsize=1 << 16)
def dropped_names(names: str) -> tuple[str, bool] | None:
    """Return the name among ids and classes that marks boilerplate, and whether only a small part may be dropped for it."""
    words = [word.lower() for word in _NAMES.findall(names)]
    small = None
    exempt = not _EXEMPT.isdisjoint(words)
    for word in words:
        if word in _SURE:
            if word not in _SMALL and not exempt:
                return word, False
            small = small or word
    return (small, True) if small else None


_PHRASES = (
    r"share (?:this|on|via)|follow us|sign (?:up|in)|log ?in|subscribe|read more|continue reading|click here",
    r"advertisement|(?:print|e-?mail)(?: this)?(?: page| article)?(?=\W*(?:$|\n|print|e-?mail|save|share|pdf))",
    r"e-?mail (?:this|us|me|a friend)|skip to|back to top|leave a (?:comment|reply)|posted (?:on|by|in)",
    r"filed under|tagged|tags?:|categor(?:y|ies):|permalink|related (?:articles|posts|content)|copyright|\u00a9",
    r"\(c\) \d{4}|all rights reserved|we use cookies|this (?:site|website) uses cookies|privacy policy",
    r"terms of (?:use|service)|jump to recipe|weiterlesen|mehr lesen|teilen|drucken|kommentar|kommentieren",
    r"impressum|datenschutz|nach oben|zur\u00fcck|anzeige|werbung|ver\u00f6ffentlicht (?:am|von|in)",
    r"schlagw\u00f6rter|kategorien?:|abgelegt unter|diese[r]? (?:website|seite) (?:be)?nutzt cookies",
    r"wir verwenden cookies|alle rechte vorbehalten|foto:|bild:|quelle:|photo:|image:|source:|getty images",
    r"(?:\\|\s*)?(?:<<<|prev(?:ious)?|next|home|up)\s*(?:\||>>>|\n|$)|partager|imprimer|lire la suite|compartir",
    r"imprimir|leer m\u00e1s|condividi|stampa|delen|afdrukken",
    r"\W*\d{1,2}[.:/-]\s?\d{1,2}[.:/-]?\s?(?:\d{2,4})?\W*(?:uhr)?$|\W*\d{1,2}\.? \w+ \d{4}\W",
    r"\w+ \d{1,2}, \d{4}\W*$",
)
_NOISE = re.compile(f"(?:{'|'.join(_PHRASES)})(?!\\w)", re.IGNORECASE)
_NOISE_CHARS = 140
_HEADERS = (
    r"(?:more )?(?:related|recommended|popular|recent|latest|trending)(?: \w+){0,3}",
    r"most (?:read|popular|viewed)",
    r"(?:similar|other|more)(?: (?:from|by|about|on|in|like)(?: \w+){0,3}|(?: \w+){0,3} "
    r"(?:articles?|posts?|stories|news|pages?|recipes?|videos?|topics|links|sites|blogs?|reading))?",
    r"you (?:may|might) also (?:like|be interested in|enjoy)",
    r"(?:\d+ )?(?:comments?|responses?|replies|thoughts?)(?: (?:on|to)\b.*)?|leave a (?:comment|reply)",
    r"(?:post|add|write) a (?:comment|reply)|about the authors?|share(?: this.*)?|follow us.*|newsletter.*",
    r"subscribe.*|tags?|topics?|categories|archives?|search|links|contact(?: us)?|navigation|menu|main menu",
    r"advertisement|sponsored.*|see also",
    r"(?:\u00e4hnliche|weitere|neueste|letzte|aktuelle|verwandte|beliebte|meistgelesene|passende)[rsn]? \w+(?: \w+){0,3}",
    r"(?:das|dies) k\u00f6nnte (?:sie|dich|ihnen|dir) auch .*|(?:auch|ebenfalls) interessant|lesen sie auch.*",
    r"mehr (?:zum thema|von|aus|zu)\b.*|(?:\d+ )?kommentare?(?: zu\b.*)?",
    r"(?:schreibe?n?|hinterlasse|verfasse) (?:sie )?(?:einen?|eine antwort) ?.*|diskussion",
    r"\u00fcber (?:den|die) autor.*|teilen|schlagw\u00f6rter|kategorien?|archiv|suche|kontakt|impressum|anzeige",
    r"werbung|cookies?(?: (?:policy|notice|settings|preferences|einstellungen|richtlinie|hinweis))?",
    r"datenschutz.*|meistgelesen|diese beitr\u00e4ge .*|.* artikeln? interess.*",
    r"weiterf\u00fchrende[r]? (?:links?|informationen)|links zum thema|articles? (?:similaires?|li\u00e9s)",
    r"sur le m\u00eame (?:sujet|th\u00e8me)|(?:lire|voir) aussi.*|commentaires?|\u00e0 lire.*",
    r"(?:noticias|art\u00edculos|temas|notas) relacionad[oa]s|te puede interesar.*|lee tambi\u00e9n.*",
    r"comentarios|leggi anche.*|potrebbe interessarti.*",
)
_NOISE_HEADER = re.compile(f"(?:{'|'.join(_HEADERS)})[\\s:!?.\u2026]*", re.IGNORECASE)


_OTHERS = (
    r"(?:\d+ )?(?:comments?|responses?|replies|thoughts?)\b.*|leave a .*|(?:post|add|write) a .*|about the authors?.*",
    r"follow us.*|newsletter.*|subscribe.*|advertisement|sponsored.*|contact(?: us)?|kontakt|impressum|anzeige|werbung",
    r"(?:\d+ )?kommentare?(?: zu\b.*)?|(?:schreibe?n?|hinterlasse|verfasse) .*|diskussion|\u00fcber (?:den|die) autor.*",
    r"cookies?(?: (?:policy|notice|settings|preferences|einstellungen|richtlinie|hinweis))?|datenschutz.*",
    r"commentaires?|comentarios",
    r"(?:more )?(?:related|recommended|popular|recent|latest|trending)\b.*|most (?:read|popular|viewed)|meistgelesen",
    r"(?:similar|\u00e4hnliche|verwandte|beliebte|neueste|aktuelle|meistgelesene)[rsn]?\b.*|mehr von\b.*",
    r"(?:noticias|art\u00edculos|temas|notas) relacionad[oa]s|you (?:may|might) also .*",
)
_OTHERS_HEADER = re.compile(f"(?:{'|'.join(_OTHERS)})[\\s:!?.\u2026]*", re.IGNORECASE)


def others_header(text: str) -> bool:
    """Tell whether a header stands above what others wrote, what the site says of itself, or teasers: never content."""
    return _OTHERS_HEADER.fullmatch(text) is not None


def noise_text(text: str) -> bool:
    """Tell whether a short block is one of the phrases that pages put around their content, or a date alone."""
    return len(text) <= _NOISE_CHARS and _NOISE.match(text) is not None


def noise_header(text: str) -> bool:
    """Tell whether a header stands above links to other pages, comments or the like."""
    return len(text) <= 80 and _NOISE_HEADER.fullmatch(text) is not None
