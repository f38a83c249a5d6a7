// Shows one language of a card: the reader's at first, then the one asked for.
const buttons = [...document.querySelectorAll("nav button")];
function show(language) {
  document.documentElement.lang = language;
  for (const article of document.querySelectorAll("article")) article.hidden = article.lang !== language;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.language === language));
}
for (const button of buttons) button.addEventListener("click", () => show(button.dataset.language));
show(navigator.language.startsWith("zh") ? "zh" : "en");
