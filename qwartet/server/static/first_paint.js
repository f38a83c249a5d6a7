// Which colours and which language, before anything is painted? The only script that is not a module, so that it runs
// in time. What it reads is written by preferences.js.
(() => {
  let stored = {};
  try {
    stored = JSON.parse(localStorage.getItem("qwartet.preferences")) ?? {};
  } catch {
    // no storage, or not ours: the defaults
  }
  const root = document.documentElement;
  if (stored.theme === "light" || stored.theme === "dark") root.dataset.theme = stored.theme;
  const language = stored.language || navigator.language;
  root.lang = String(language).toLowerCase().startsWith("zh") ? "zh-CN" : "en";
})();
