let best = storage.read("best", 0);
find("#best").textContent = String(best);

function scored(score) {
  find("#score").textContent = String(score);
  if (score > best) {
    best = score;
    storage.write("best", best);
    find("#best").textContent = String(best);
  }
}

/* if snake */
const size = 20;
const pace = {{ pace }};
const field = find("#field");
const pen = field.getContext("2d");
let snake = [];
let apple = { x: 0, y: 0 };
let way = { x: 1, y: 0 };
let turns = [];
let score = 0;
let timer = 0;

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name);
}

function square(at, fill, inset) {
  const side = field.width / size;
  pen.fillStyle = fill;
  pen.beginPath();
  pen.roundRect(at.x * side + inset, at.y * side + inset, side - 2 * inset, side - 2 * inset, 6);
  pen.fill();
}

function draw() {
  pen.clearRect(0, 0, field.width, field.height);
  square(apple, "hsl(0 80% 58%)", 3);
  snake.forEach((part, index) => square(part, index === 0 ? color("--ink") : color("--accent"), 1));
}

function isSnake(at) {
  return snake.some((part) => part.x === at.x && part.y === at.y);
}

function plant() {
  const free = [];
  for (let x = 0; x < size; x += 1) {
    for (let y = 0; y < size; y += 1) {
      if (!isSnake({ x, y })) free.push({ x, y });
    }
  }
  apple = free[Math.floor(Math.random() * free.length)];
}

function turn(x, y) {
  const last = turns.length ? turns[turns.length - 1] : way;
  if (turns.length < 3 && (x === 0) !== (last.x === 0)) turns.push({ x, y });
}

function end() {
  window.clearTimeout(timer);
  timer = 0;
  find("#word").textContent = "Game over: " + score + (score === 1 ? " point" : " points");
  find("#play").textContent = "Play again";
  find("#cover").hidden = false;
  find("#play").focus();
}

function step() {
  way = turns.shift() || way;
  const head = { x: snake[0].x + way.x, y: snake[0].y + way.y };
  const tail = snake.pop();
  if (head.x < 0 || head.y < 0 || head.x >= size || head.y >= size || isSnake(head)) {
    snake.push(tail);
    end();
    return;
  }
  snake.unshift(head);
  if (head.x === apple.x && head.y === apple.y) {
    snake.push(tail);
    score += 1;
    scored(score);
    plant();
  }
  draw();
  timer = window.setTimeout(step, Math.max(55, pace - 2 * score));
}

function play() {
  snake = [{ x: 6, y: 10 }, { x: 5, y: 10 }, { x: 4, y: 10 }];
  way = { x: 1, y: 0 };
  turns = [];
  score = 0;
  scored(0);
  plant();
  find("#cover").hidden = true;
  field.focus();
  window.clearTimeout(timer);
  step();
}

const keys = {
  ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0],
  w: [0, -1], s: [0, 1], a: [-1, 0], d: [1, 0],
};
document.addEventListener("keydown", (event) => {
  if (timer && keys[event.key]) {
    event.preventDefault();
    turn(...keys[event.key]);
  }
});
for (const button of document.querySelectorAll("[data-turn]")) {
  button.addEventListener("click", () => turn(...button.dataset.turn.split(",").map(Number)));
}
let touch = null;
field.addEventListener("pointerdown", (event) => {
  touch = event;
});
field.addEventListener("pointerup", (event) => {
  if (!touch) return;
  const x = event.clientX - touch.clientX;
  const y = event.clientY - touch.clientY;
  if (Math.abs(x) > Math.abs(y)) turn(Math.sign(x), 0);
  else if (y !== 0) turn(0, Math.sign(y));
  touch = null;
});
find("#play").addEventListener("click", play);
snake = [{ x: 6, y: 10 }, { x: 5, y: 10 }, { x: 4, y: 10 }];
plant();
draw();
/* end */

/* if memory */
const faces = ["🍎", "🌙", "🚀", "🐳", "🎈", "🌵", "🎲", "⭐"];
let cards = [];
let open = [];
let tries = 0;
let waiting = 0;

function shuffle(list) {
  for (let index = list.length - 1; index > 0; index -= 1) {
    const other = Math.floor(Math.random() * (index + 1));
    [list[index], list[other]] = [list[other], list[index]];
  }
  return list;
}

function show(card) {
  const shown = card.found || open.includes(card);
  card.button.textContent = shown ? card.face : "";
  card.button.className = card.found ? "found" : shown ? "open" : "";
  card.button.setAttribute("aria-label", shown ? card.face : "Card face down");
}

function close() {
  window.clearTimeout(waiting);
  waiting = 0;
  const closing = open;
  open = [];
  closing.forEach(show);
}

function flip(card) {
  if (card.found || open.includes(card)) return;
  if (open.length === 2) close();
  open.push(card);
  show(card);
  if (open.length < 2) return;
  tries += 1;
  if (open[0].face === open[1].face) {
    open.forEach((one) => { one.found = true; });
    close();
    cards.forEach(show);
    scored(cards.filter((one) => one.found).length * 10 - tries);
    if (cards.every((one) => one.found)) find("#word").textContent = "All pairs in " + tries + " tries!";
  } else {
    waiting = window.setTimeout(close, {{ pace }} * 6);
  }
}

function play() {
  window.clearTimeout(waiting);
  open = [];
  tries = 0;
  find("#score").textContent = "0";
  find("#word").textContent = "Find the pairs.";
  cards = shuffle([...faces, ...faces]).map((face) => {
    const card = { face, found: false, button: make("button", { type: "button" }) };
    card.button.addEventListener("click", () => flip(card));
    return card;
  });
  find("#table").replaceChildren(...cards.map((card) => card.button));
  cards.forEach(show);
}

find("#play").addEventListener("click", play);
play();
/* end */
