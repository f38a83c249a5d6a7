// Sets theme and language before the first paint. The only script that is not a module, so that it runs in time. It
// reads what preferences.js writes.
(() => {
  let stored = {};
  try {
    stored = JSON.parse(localStorage.getItem("qwartet.preferences")) ?? {};
  } catch {
    // no storage or invalid content: the defaults
  }
  const root = document.documentElement;
  if (stored.theme === "light" || stored.theme === "dark") root.dataset.theme = stored.theme;
  const language = stored.language || navigator.language;
  root.lang = String(language).toLowerCase().startsWith("zh") ? "zh-CN" : "en";
})();
