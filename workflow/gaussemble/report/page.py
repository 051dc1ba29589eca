"""The page's template: one file that needs no other, readable on a phone, by day and by night, and on paper."""

STYLE = """
:root { --ink: #1d1f21; --soft: #5f6670; --line: #dfe2e6; --paper: #ffffff; --tint: #f4f6f8; --link: #0072b2;
  --good: #00704f; --open: #8a5a00; --bad: #b03a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a3abb5; --line: #343a41; --paper: #16181b;
  --tint: #1f2327; --link: #6cb8e6; --good: #4cc9a0; --open: #e0ae4a; --bad: #f0885a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 54rem; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--soft); margin: 0; letter-spacing: .01em; }
h2 { font-size: 1.5rem; line-height: 1.25; margin: 3.2rem 0 1rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.08rem; margin: 2.2rem 0 .4rem; }
p { margin: .5rem 0; max-width: 42rem; }
ul { margin: .5rem 0; padding-left: 1.3rem; max-width: 42rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .18em; }
.headline { font-size: clamp(1.35rem, 4.6vw, 1.9rem); line-height: 1.3; font-weight: 600; margin: .5rem 0 .6rem;
  max-width: 48rem; text-wrap: pretty; }
.soft, figcaption { color: var(--soft); }
.caution { border-left: 3px solid var(--line); padding-left: .9rem; color: var(--soft); font-size: .95rem; }
nav { margin-top: 1rem; font-size: .95rem; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
dl.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .6rem;
  margin: 1.6rem 0; }
dl.numbers div { background: var(--tint); border-radius: .5rem; padding: .7rem .9rem; }
dl.numbers dt { color: var(--soft); font-size: .84rem; line-height: 1.3; }
dl.numbers dd { margin: .1rem 0 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0 2.4rem; }
figcaption { font-size: .95rem; margin-bottom: .6rem; max-width: 42rem; }
.sheet { background: #ffffff; border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; overflow-x: auto; }
.sheet img { display: block; margin: 0 auto; height: auto; max-width: 100%; }
.wide { overflow-x: auto; margin: .8rem 0 1.4rem; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; line-height: 1.4; }
th, td { text-align: left; vertical-align: top; padding: .38rem 1.1rem .38rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .84rem; vertical-align: bottom; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.reason { min-width: 15rem; }
.reproduced { color: var(--good); font-weight: 600; white-space: nowrap; }
.undecided { color: var(--open); font-weight: 600; white-space: nowrap; }
.not-reproduced { color: var(--bad); font-weight: 600; white-space: nowrap; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--link); }
details table td { overflow-wrap: anywhere; } details td:first-child { min-width: 9rem; }
footer { margin-top: 4rem; color: var(--soft); font-size: .9rem; }
@media (max-width: 38rem) { body { padding: 1.5rem 1rem 3rem; font-size: 1rem; }
  .sheet img { max-width: none; width: 36rem; } }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } details { display: none; } }
"""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
{%- macro picture(figure) %}
<figure id="{{ figure.id }}">
<h3>{{ figure.title }}</h3>
<figcaption>{{ figure.caption }}</figcaption>
<div class="sheet"><img alt="{{ figure.caption }}" width="{{ figure.width }}" src="{{ figure.source }}"></div>
</figure>
{%- endmacro %}
{%- macro grid(table) %}
<div class="wide"><table>
<thead><tr>
{%- for head in table.columns %}<th class="{{ head.style }}">{{ head.label }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for row in table.rows %}
<tr>{% for head in table.columns %}<td class="{{ head.style }}">
{%- if head.label == "verdict" %}<span class="{{ row[loop.index0] | replace(' ', '-') }}">{{ row[loop.index0] }}</span>
{%- else %}{{ row[loop.index0] }}{% endif %}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- endmacro %}
<header>
<h1>{{ title }}</h1>
{% for analysis in analyses %}
<p class="headline">{% if analyses | length > 1 %}{{ analysis.name }}: {% endif %}{{ analysis.summary }}</p>
{% endfor %}
<p class="caution">{{ caution }}</p>
<dl class="numbers">
{% for number in numbers %}<div><dt>{{ number.label }}</dt><dd>{{ number.value }}</dd></div>
{% endfor %}</dl>
<nav>
{% for analysis in analyses %}{% for chapter in analysis.chapters %}<a href="#{{ chapter.id }}">{{ chapter.title }}</a>
{% endfor %}{% endfor %}<a href="#particles">Particles</a>
<a href="#consensus">Consensus</a> <a href="#settings">Settings</a>
</nav>
</header>
<main>
{% for analysis in analyses %}{% for chapter in analysis.chapters %}
<section id="{{ chapter.id }}">
<h2>{{ chapter.title }}</h2>
{% for line in chapter.lines %}<p>{{ line }}</p>{% endfor %}
{% for table in chapter.tables %}{% if table.title %}<h3>{{ table.title }}</h3>{% endif %}{{ grid(table) }}{% endfor %}
{% for figure in chapter.figures %}{{ picture(figure) }}{% endfor %}
</section>
{% endfor %}{% endfor %}
<section id="particles">
<h2>Particles</h2>
{% for line in particles.lines %}<p>{{ line }}</p>{% endfor %}
{% if particles.assumed %}<p>On import:</p>
<ul>{% for line in particles.assumed %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}
{% for table in particles.tables %}<h3>{{ table.title }}</h3>{{ grid(table) }}{% endfor %}
{% if particles.remark %}<p>{{ particles.remark }}</p>{% endif %}
{% for figure in particles.figures %}{{ picture(figure) }}{% endfor %}
</section>
<section id="consensus">
<h2>Consensus and Gaussians</h2>
{% for figure in consensus %}{{ picture(figure) }}{% endfor %}
</section>
<section id="settings">
<h2>Settings and provenance</h2>
<p>{{ provenance.sentence }}</p>
{% for table in provenance.tables %}<details><summary>{{ table.title }}</summary>{{ grid(table) }}</details>{% endfor %}
</section>
</main>
<footer>{% if absent %}<p>Not in this report: {{ absent | join("; ") }}.</p>{% endif %}
<p>Each figure stands also alone in the folder <code>figures</code> beside this page, as PNG and SVG,
with the numbers behind it as CSV.</p>
</footer>
</body>
</html>
"""
