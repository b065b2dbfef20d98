const subject = {{ subject }};
const posts = [
  {
    id: "begin",
    icon: "🌅",
    hue: 20,
    tag: "Basics",
    title: "Where to begin with " + subject,
    minutes: 4,
    text: [
      "Everybody who is good at " + subject + " once stood where you stand: curious, a little lost, with forty open tabs. The first step is to close thirty-nine of them.",
      "Choose one small thing that you can finish today. Finish it. It will not be good, and that does not matter, because tomorrow you will see exactly what to do better.",
      "Write down what surprised you. In a month these notes will be worth more than any course.",
    ],
  },
  {
    id: "mistakes",
    icon: "🧭",
    hue: 200,
    tag: "Lessons",
    title: "Five mistakes I would make again",
    minutes: 6,
    text: [
      "I bought too much, planned too long, asked too late, copied the wrong people and gave up twice. Each of the five taught me something about " + subject + " that no advice could.",
      "The most useful was giving up. When I came back I knew what I had missed, and that told me what I wanted.",
    ],
  },
  {
    id: "habit",
    icon: "⏱️",
    hue: 140,
    tag: "Practice",
    title: "Twenty minutes a day",
    minutes: 3,
    text: [
      "A habit is a decision that you make only once. Mine is twenty minutes of " + subject + " before the first message of the day.",
      "Some days nothing comes of it. Over a year, that is a hundred and twenty hours of something.",
    ],
  },
  {
    id: "tools",
    icon: "🧰",
    hue: 265,
    tag: "Basics",
    title: "The few tools worth having",
    minutes: 5,
    text: [
      "You need less than the shops would like. Three good tools that you know by heart beat thirty that you have to look up.",
      "Borrow before you buy. Whatever you have borrowed twice, buy once, and buy the good one.",
    ],
  },
  {
    id: "people",
    icon: "💬",
    hue: 330,
    tag: "People",
    title: "A conversation about " + subject,
    minutes: 7,
    text: [
      "“I never had a plan,” she said and laughed. “I had a corner of the kitchen table and a lot of questions.”",
      "What would she tell somebody who starts with " + subject + " today? “Show it to people while it is still bad. They are kinder than you are.”",
    ],
  },
];

let tag = "All";

function cover(post) {
  const element = make("div", { className: "cover" }, post.icon);
  element.style.setProperty("--cover", String(post.hue));
  element.setAttribute("aria-hidden", "true");
  return element;
}

function matches(post) {
  const field = find("#search");
  const wanted = field ? field.value.trim().toLowerCase() : "";
  const all = [post.title, post.tag, ...post.text].join(" ").toLowerCase();
  return (tag === "All" || post.tag === tag) && all.includes(wanted);
}

function teaser(post) {
  return make(
    "a",
    { className: "card teaser", href: "#/" + post.id },
    cover(post),
    make(
      "div",
      { className: "text" },
      make("small", {}, post.tag + " · " + post.minutes + " min"),
      make("h2", {}, post.title),
      make("p", { className: "muted" }, post.text[0].slice(0, 110) + "…"),
    ),
  );
}

function listPosts() {
  const shown = posts.filter(matches);
  find("#posts").replaceChildren(...shown.map(teaser));
  find("#empty").hidden = shown.length > 0;
}

function listTags() {
  const names = ["All", ...new Set(posts.map((post) => post.tag))];
  find("#tags").replaceChildren(
    ...names.map((name) => {
      const button = make("button", { type: "button" }, name);
      button.setAttribute("aria-pressed", String(name === tag));
      button.addEventListener("click", () => {
        tag = name;
        listTags();
        listPosts();
      });
      return button;
    }),
  );
}

function route() {
  const post = posts.find((one) => "#/" + one.id === window.location.hash);
  find("#home").hidden = Boolean(post);
  find("#post").hidden = !post;
  if (post) {
    find("#post").replaceChildren(
      make("a", { href: "#/" }, "← All articles"),
      make("h1", {}, post.title),
      make("small", {}, post.tag + " · " + post.minutes + " min to read"),
      cover(post),
      ...post.text.map((text) => make("p", {}, text)),
    );
    window.scrollTo(0, 0);
  }
}

/* if search */
find("#search").addEventListener("input", listPosts);
/* end */
window.addEventListener("hashchange", route);
listTags();
listPosts();
route();
