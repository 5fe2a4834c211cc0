"""Settings of the site as Sphinx builds it where Quarto isn't installed; `tools/make_site.py` writes the pages."""
import configparser
import html
import re
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parent.parent
settings = configparser.ConfigParser(delimiters=['='])
settings.read(ROOT / 'settings.ini', encoding='utf-8')
own = settings['DEFAULT']

project, author, release = own['lib_name'], '', own['version']
copyright = own['copyright']
extensions = ['myst_nb', 'sphinx-mathjax-offline']  # equations are typeset without a network
nb_execution_mode = 'off'  # pages show saved outputs
nb_render_markdown_format = 'gfm'  # tables in outputs are tables
nb_mime_priority_overrides = [('html', 'application/vnd.jupyter.widget-view+json', None)]  # a widget leaves a picture
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_dmath_double_inline = True
myst_heading_anchors = 4
# signatures stand at the third level; defaults of signatures needn't be Python
suppress_warnings = ['mystnb.mime_priority', 'myst.header', 'misc.highlighting_failure']
exclude_patterns = ['conf.py']
html_theme = 'sphinx_book_theme'
html_title = project
html_copy_source, html_use_index = False, False
html_static_path, html_css_files = ['static', str(ROOT / 'nbs/static')], ['pages.css', 'site.css']
html_js_files = [('site.js', {'defer': 'defer'})]
html_favicon, html_search_scorer = str(ROOT / 'nbs/static/favicon.svg'), str(ROOT / 'docs/static/scorer.js')
html_baseurl = f"https://{own['user']}.github.io/{own['repo']}/"
html_context = {'default_mode': 'auto'}
html_theme_options = {
    'repository_url': own['git_url'],
    'repository_branch': own['branch'],
    'path_to_docs': own['nbs_path'],
    'use_repository_button': True,
    'use_issues_button': True,
    'use_edit_page_button': True,
    'launch_buttons': {'colab_url': 'https://colab.research.google.com'},
    'show_toc_level': 2,
    'home_page_in_toc': True,
    'navbar_persistent': [],  # one search box: that of the sidebar, or on narrow screens the icon
    'show_navbar_depth': 0,  # sections are closed, but for that of the page
    'collapse_navbar': True,
    'extra_footer': (
        f'<p>Version {release} · <a href="{own["git_url"]}/blob/main/CHANGELOG.md">what changed in each version</a></p>'
    ),
}


def name_entries(app, doctree):
    """Entries of functions that are folded away, and equations, can be linked to, as headings can."""
    slugs = app.env.metadata[app.env.docname].setdefault('myst_slugs', {})
    for raw in doctree.findall(nodes.raw):
        slugs |= {name: (0, name, name) for name in re.findall(r'(?:class="entry"|<b) id="([^"]+)"', raw.astext())}


def plain(doctree) -> tuple[str, str]:
    """Title and first paragraph of a page."""
    found = [next(iter(doctree.findall(kind)), None) for kind in (nodes.title, nodes.paragraph)]
    return tuple('' if node is None else ' '.join(node.astext().split()) for node in found)


def say_to_others(app, pagename, templatename, context, doctree):
    """What search engines and messengers show of a page; a missing page finds its styles from any folder."""
    title, about = ('', '') if doctree is None else plain(doctree)
    said = {
        'og:title': title or project, 'og:description': about or own['description'], 'og:type': 'website',
        'og:site_name': project, 'og:url': f'{html_baseurl}{pagename}.html',
        'og:image': f'{html_baseurl}_static/social.jpg', 'og:image:width': '1200', 'og:image:height': '630',
        'og:image:alt': 'A clip, its thumbnail and its GIF',
    }
    tags = [f'<meta property="{name}" content="{html.escape(text)}">' for name, text in said.items()]
    tags += [f'<meta name="description" content="{html.escape(said["og:description"])}">']
    tags += ['<meta name="twitter:card" content="summary_large_image">']
    if pagename == '404':  # the host shows it at the address that was asked for, in whatever folder
        home = f'/{own["repo"]}/'
        tags = [f'<script>if (location.pathname.startsWith("{home}")) '
                f'document.write(`<base href="{home}">`)</script>', *tags]
    context['metatags'] = '\n'.join([*tags, context.get('metatags', '')])


def setup(app):
    app.connect('doctree-read', name_entries)
    app.connect('html-page-context', say_to_others)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
