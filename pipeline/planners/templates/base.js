"use strict";

// What the page remembers. In a sandboxed preview localStorage throws: then it remembers until it is closed.
const memory = {};
const storage = {
  read(name, otherwise) {
    try {
      const text = window.localStorage.getItem(document.title + ":" + name);
      return text === null ? otherwise : JSON.parse(text);
    } catch (error) {
      return name in memory ? memory[name] : otherwise;
    }
  },
  write(name, value) {
    memory[name] = value;
    try {
      window.localStorage.setItem(document.title + ":" + name, JSON.stringify(value));
    } catch (error) {
      // Kept in memory only.
    }
  },
};

function find(selector) {
  return document.querySelector(selector);
}

// A new element: make("li", { className: "done" }, "text", otherElement). Text stays text.
function make(tag, attributes, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

/* if dark */
const theme = find("#theme");

function showTheme(name) {
  document.documentElement.dataset.theme = name;
  theme.textContent = name === "dark" ? "☀️ Light" : "🌙 Dark";
  theme.setAttribute("aria-pressed", String(name === "dark"));
}

theme.addEventListener("click", () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  storage.write("theme", name);
  showTheme(name);
});
showTheme(storage.read("theme", window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
/* end */

