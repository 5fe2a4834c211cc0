"""Packaging for pip: every field is read from settings.ini, the one place where they are kept."""
import configparser
import pathlib

import setuptools

settings = configparser.ConfigParser(delimiters=['='])
settings.read('settings.ini', encoding='utf-8')
cfg = settings['DEFAULT']
parts = 'models', 'sound', 'text', 'stills', 'scale', 'notebooks'
extras = {part: cfg[f'{part}_requirements'].split() for part in (*parts, 'clip')}
everything = [requirement for part in parts for requirement in extras[part]]

setuptools.setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=pathlib.Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    keywords=cfg['keywords'].split(),
    classifiers=['Development Status :: 3 - Alpha', f"Intended Audience :: {cfg['audience']}", f"Natural Language :: {cfg['language']}", 'Programming Language :: Python :: 3'],
    project_urls={'Documentation': f"{cfg['doc_host']}{cfg['doc_baseurl']}"},
    packages=setuptools.find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]),
    package_data={cfg['lib_path']: ['weights/*']},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras | {'all': everything, 'dev': [*everything, *extras['clip'], *cfg['dev_requirements'].split()]},
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
