"""An index in the browser: a server on one's own machine (`index.serve`), or a folder of files (`index.to_site`)."""

from .explorer import Explorer, serve
from .site import to_site

__all__ = ["Explorer", "serve", "to_site"]
