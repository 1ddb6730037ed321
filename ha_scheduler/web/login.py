"""The login page: a token in, a cookie out; and the logout.

Guarantee: the token is read from the body of a POST, and is in no answer, log or URL. The cookie is
HttpOnly, SameSite, and Secure under TLS, where ``__Host-`` keeps it to this host.

All links are relative, so that the page works behind a proxy that has a prefix of its own, as
JupyterLab's.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from tornado.escape import xhtml_escape
from tornado.web import RequestHandler

from ha_scheduler.web.access import Access, Refusal

logger = logging.getLogger(__name__)

TARGET_CHARACTERS_MAX = 1024
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'self'",
    "Referrer-Policy": "same-origin",  # with none, browsers send the form with ``Origin: null``
    "X-Content-Type-Options": "nosniff",
}

_PAGE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:12vh auto;padding:0 1em}}
input,button{{font:inherit;padding:.4em .6em}}input{{width:100%;box-sizing:border-box}}
.refused{{color:#a00}}</style>
<h1>{title}</h1>
{body}
</html>
"""
_FORM = """\
{refused}<form method="post" action="login?next={target}">
<p><label for="token">A token of this cell (role client, observer or admin)</label>
<input id="token" name="token" type="password" autocomplete="off" autofocus required></p>
<p><button>Log in</button></p></form>
<p>It is in the file <code>client.token</code> beside your certificate, or is issued with
<code>dask ha token issue --role observer --subject NAME</code>.</p>
"""


class Page(RequestHandler):
    """A page of this package. ``access``: that of the server."""

    def initialize(self, access: Access, prefix: str = "") -> None:
        self.access = access
        self.prefix = prefix

    def set_default_headers(self) -> None:
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)

    def check_xsrf_cookie(self) -> None:
        """``Access.check`` has compared the origin."""

    def show(self, title: str, body: str) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(_PAGE.format(title=xhtml_escape(title), body=body))

    def see(self, relative: str, status: int = 303) -> None:
        """Redirect; tornado's would make it an absolute path."""
        self.set_status(status)
        self.set_header("Location", relative)
        self.finish()

    def refuse(self, refusal: Refusal) -> None:
        self.set_status(refusal.status)
        if refusal.retry_s:
            self.set_header("Retry-After", str(int(refusal.retry_s) + 1))
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Bearer realm="dask"')


class Login(Page):
    def get(self) -> None:
        self._form()

    def post(self) -> None:
        found = self.access.log_in(self.get_body_argument("token", ""), self.request)
        if isinstance(found, Refusal):
            logger.warning(
                "A login from %s was refused: %s.",
                self.request.remote_ip,
                found.reason,
                extra={"action": "login_refused"},
            )
            self.refuse(found)
            self._form(found.reason)
            return
        self.set_cookie_of(*self.access.sessions.begin(found))
        logger.info(
            "%s (%s) has logged in from %s.",
            found.subject,
            found.role,
            self.request.remote_ip,
            extra={"action": "login"},
        )
        self.see(_local(self.get_query_argument("next", "")))

    def set_cookie_of(self, cookie: str, expires: float) -> None:
        self.set_cookie(
            self.access.sessions.name,
            cookie,
            expires=expires,
            path="/",
            httponly=True,
            secure=self.request.protocol == "https",
            samesite="Lax",  # a link to the dashboard works; what acts compares the origin
        )

    def _form(self, refused: str = "") -> None:
        target = quote(_local(self.get_query_argument("next", "")), safe="")
        why = f'<p class="refused">Refused: {xhtml_escape(refused)}.</p>' if refused else ""
        self.show("Dask", _FORM.format(target=target, refused=why))


class Logout(Page):
    def get(self) -> None:
        self.show("Log out", '<form method="post" action="logout"><button>Log out</button></form>')

    def post(self) -> None:
        cookie = self.request.cookies.get(self.access.sessions.name)
        if cookie is not None:
            self.access.sessions.end(cookie.value)
        secure = self.request.protocol == "https"
        self.clear_cookie(self.access.sessions.name, path="/", secure=secure, httponly=True)
        self.see("login")


def way_to_login(path: str, query: str) -> str:
    """From the page at ``path`` (without the server's prefix), relative."""
    target = path.lstrip("/") + (f"?{query}" if query else "")
    up = "../" * path.lstrip("/").count("/")
    return f"{up}login?next={quote(target[:TARGET_CHARACTERS_MAX], safe='')}"


def _local(target: str) -> str:
    """``target`` if it is a page of this server, relative to the login; else the first page."""
    parts = urlsplit(target)
    printable = target.isascii() and target.isprintable()
    if parts.scheme or parts.netloc or target.startswith("/") or "\\" in target or not printable:
        return "status"
    if ":" in target.partition("/")[0] or len(target) > TARGET_CHARACTERS_MAX:
        return "status"
    return target or "status"
