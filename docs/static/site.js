// Draws the figures that a reader can move, and opens the folded entry that a link leads to. No network is needed.
(() => {
  const root = document.documentElement.dataset.content_root || './';

  // A narrow screen gets the parts of a figure one below the other, each as wide as the screen.
  function fit(spec, room) {
    const parts = spec.hconcat || spec.vconcat || spec.layer || [];
    if (spec.hconcat && room < 560) { spec.vconcat = spec.hconcat; delete spec.hconcat; }
    if (spec.hconcat) {  // side by side, and a little narrower where they must be
      const wide = parts.reduce((sum, part) => sum + (part.width || 200), 0);
      const share = Math.min(1, (room - 70 * parts.length) / wide);
      parts.forEach(part => { if (typeof part.width === 'number') part.width *= share; });
    }
    if (typeof spec.width === 'number') spec.width = Math.min(spec.width, Math.max(160, room - 110));
    parts.forEach(part => fit(part, room));
    return spec;
  }

  async function draw(place) {
    const spec = JSON.parse(place.querySelector('script').textContent);
    spec.$schema = 'https://vega.github.io/schema/vega-lite/v6.json';
    const target = place.appendChild(document.createElement('div'));
    const config = {font: 'system-ui, sans-serif', view: {stroke: null}, axis: {labelFontSize: 12, titleFontSize: 12, labelOverlap: 'greedy'}};
    const options = {actions: false, renderer: 'svg', config};
    const made = await vegaEmbed(target, fit(spec, place.clientWidth), options);
    place.view = made.view;
  }

  const places = [...document.querySelectorAll('.live')];
  if (places.length) {
    const library = document.createElement('script');
    library.src = root + '_static/vega.js';
    library.onload = () => places.forEach(draw);
    document.head.append(library);
  }

  function open() {
    const entry = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (entry && entry.matches('details')) { entry.open = true; entry.scrollIntoView(); }
  }
  addEventListener('hashchange', open);
  open();
})();
