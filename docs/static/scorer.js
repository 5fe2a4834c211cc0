// What stands first among the pages that a search finds: titles with the words, then tutorials and papers before lists.
var Scorer = {
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
  score: ([page, title, anchor, , score, , kind]) => {
    const words = new URLSearchParams(location.search).get('q').toLowerCase().trim();
    const own = title.toLowerCase().split(' > ').pop();
    const folders = {tutorials: 12, papers: 3, thumbnail: 4, gif: 4, classify: 4, venue: 4};
    let points = score + (folders[page.split('/')[0]] || 0);
    if (own.includes(words)) points += anchor ? 14 : 20;
    if (page.includes('experiments') || page === 'functions' || kind === 'index') points -= 8;
    return points;
  },
};
