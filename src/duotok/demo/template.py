"""The fixed parts of the report page: layout and style (the script: `report_script.py`)."""

STYLE = """
:root { color-scheme: light dark; --ground:#fbfaf8; --card:#fff; --ink:#1d2026; --soft:#626874; --line:#e4e2dd;
  --vocals:#d4602a; --accompaniment:#2f78c9; --mix:#6b7280; --good:#1f8a5b; }
@media (prefers-color-scheme: dark) { :root { --ground:#13151a; --card:#1b1e25; --ink:#e9eaee; --soft:#9aa1ae;
  --line:#2c313b; --vocals:#f08a58; --accompaniment:#6aa9f0; --mix:#a3a9b5; --good:#5ac596; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--ground); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif; }
main { max-width:1180px; margin:0 auto; padding:2.2rem 1.2rem 4rem; }
h1 { font-size:1.9rem; margin:0 0 .3rem; letter-spacing:-.01em; }
h2 { font-size:1.25rem; margin:2.8rem 0 .4rem; }
h3 { font-size:.98rem; margin:0; }
p { max-width:74ch; margin:.4rem 0 .8rem; }
.lead { font-size:1.06rem; }
.soft, figcaption, small { color:var(--soft); }
.facts { display:flex; flex-wrap:wrap; gap:.7rem; margin:1.3rem 0 0; padding:0; list-style:none; }
.facts li { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:.6rem .95rem;
  min-width:8.2rem; }
.facts b { display:block; font-size:1.24rem; font-variant-numeric:tabular-nums; }
.facts span { color:var(--soft); font-size:.84rem; }
.grid { display:grid; grid-template-columns:1fr 1fr; gap:1rem; }
.grid > header { font-weight:600; color:var(--soft); font-size:.9rem; margin-bottom:-.5rem; }
.three { grid-template-columns:1fr 1fr 1fr; }
.card { background:var(--card); border:1px solid var(--line); border-top:3px solid var(--track,var(--line));
  border-radius:10px; padding:.8rem .9rem .9rem; min-width:0; }
.vocals { --track:var(--vocals); } .accompaniment { --track:var(--accompaniment); } .mix { --track:var(--mix); }
.card h3 small { font-weight:400; }
audio { width:100%; height:36px; margin:.5rem 0 0; display:block; }
.view { position:relative; display:block; margin-top:.55rem; cursor:crosshair; line-height:0; border-radius:6px;
  overflow:hidden; }
.view img { width:100%; height:100%; display:block; }
.view i { position:absolute; top:0; bottom:0; left:0; width:2px; margin-left:-1px; background:#fff;
  box-shadow:0 0 3px #000; pointer-events:none; opacity:.9; }
.card .view { height:150px; }
.strip .view { height:60px; } .curve .view { height:130px; }
figure { margin:.9rem 0; } figcaption { font-size:.9rem; margin-top:.35rem; max-width:90ch; }
.strip { border-left:3px solid var(--track); padding-left:.6rem; }
.key { display:inline-block; width:.75em; height:.75em; border-radius:2px; background:var(--track);
  margin-right:.25em; }
table { border-collapse:collapse; width:100%; margin:.7rem 0; font-variant-numeric:tabular-nums;
  background:var(--card);
  border:1px solid var(--line); border-radius:10px; }
th,td { text-align:right; padding:.5rem .8rem; border-bottom:1px solid var(--line); vertical-align:top; }
th:first-child,td:first-child { text-align:left; } tr:last-child td { border-bottom:0; }
td:not(:first-child) { white-space:nowrap; }
th { font-size:.86rem; color:var(--soft); font-weight:600; } .better { color:var(--good); font-weight:600; }
.wide { overflow-x:auto; }
.wide.more { box-shadow:inset -14px 0 12px -12px var(--soft); }
.wide.more::after { content:"more columns: scroll sideways \\2192"; position:sticky; left:0; display:block; color:var(--soft);
  font-size:.82rem; padding:.1rem 0 .4rem; }
.view:focus-visible, button:focus-visible, input:focus-visible, .wide:focus-visible { outline:3px solid var(--accompaniment);
  outline-offset:2px; }
#mixer { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:.8rem .9rem; margin:.6rem 0 1rem; }
#mixer .row { display:flex; flex-wrap:wrap; gap:.5rem .9rem; align-items:center; margin:.3rem 0; }
#mixer input[type=range] { flex:1 1 12rem; }
#mixer fieldset { border:0; padding:0; margin:0; display:flex; flex-wrap:wrap; gap:.3rem .8rem; }
#mixer legend { float:left; margin-right:.6rem; font-weight:600; }
#mixer button { font:inherit; color:var(--ink); background:var(--ground); border:1px solid var(--line); border-radius:7px;
  padding:.3rem .75rem; cursor:pointer; min-height:2.2rem; }
#mixer button[aria-pressed=true] { background:var(--track,var(--soft)); color:#fff; border-color:transparent; }
#mixer .track { display:flex; gap:.4rem; align-items:center; } #mixer .track b { color:var(--track); }
code { font:0.88em ui-monospace,Menlo,Consolas,monospace; background:color-mix(in srgb,var(--line) 55%,transparent);
  padding:.1em .35em; border-radius:4px; }
pre { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:.8rem 1rem; overflow-x:auto; }
pre code { background:none; padding:0; }
.square { margin:0; }
.square img { width:100%; max-width:380px; display:block; border-radius:6px; margin:.5rem auto 0; }
@media (max-width:720px) { td:not(:first-child) { white-space:normal; } th,td { padding:.4rem .45rem; }
  .grid,.three { grid-template-columns:1fr; } .card .view { height:120px; }
  .grid > header { display:none; } }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>$title · DuoTok</title><link rel="icon" href="data:,"><style>$style</style></head>
<body><main>
<h1>$title</h1>
<p class="lead">$lead</p>
<p class="soft">$provenance</p>
<ul class="facts">$cards</ul>

<h2>Listen</h2>
<p>The tracks together, in step: mute or solo each, and switch between what went in and what came out of the tokens alone,
at equal loudness.</p>
$mixer
<p>Left: what went in. Right: what comes out of the tokens alone. All players share one position, so you can switch
while the music runs; click into a picture to jump there, or move it with the arrow keys.</p>
<div class="grid">$listening</div>
<p class="soft">The pictures show pitch from low (below) to high (above) over time, bright where it is loud: log-mel
spectrograms, 0 to 12 kHz. The players hold MP3 copies; lossless FLAC files lie beside this page.</p>

<h2>The tokens</h2>
<p>$tokens_text</p>
$strips
<figure class="curve">$variety
<figcaption><span class="vocals"><span class="key"></span>vocals</span> <span class="accompaniment"><span class="key">
</span>accompaniment</span>. Solid: how many different tokens there are in the two seconds around each
moment (100 %: none comes twice; low: held notes, silence, loops). Dotted: the share of all tokens so far that were new
when they came.</figcaption></figure>
<div class="grid">$similarity</div>
<p class="soft">Every moment against every other moment of the song, by the vectors that the tokens stand for:
bright off the diagonal where the music comes back.</p>

<h2>How close is it?</h2>
<p>$distance_text</p>
<div class="wide" tabindex="0" role="region" aria-label="table"><table>$distances</table></div>
<p>For scale, the same sounds through Opus at 6 kbit/s: $ratio times the bits of one track here, $half_ratio times those
of both.</p>
<div class="grid three">$yardstick</div>
$separation

<h2>Use of the codebooks</h2>
<div class="grid"><figure><img src="$ranks" alt="how often each code is used" style="width:100%"></figure>
<div class="wide" tabindex="0" role="region" aria-label="table"><table>$usage</table></div></div>
<p class="soft">$usage_note</p>

<h2>Time taken</h2>
<div class="wide" tabindex="0" role="region" aria-label="table"><table>$times</table></div>

<h2>Do it yourself</h2>
<pre><code>$commands</code></pre>
<p class="soft">Measured by <code>duotok demo</code> $version with the bundle <code>$bundle</code> ($hash). The same
figures as data: <code>facts.json</code>.</p>
</main><script>$script</script></body></html>
"""
