// Numbers count up when they come into view.
function countUp(element) {
  const goal = Number(element.dataset.count);
  const began = performance.now();
  function frame(now) {
    const share = Math.min(1, (now - began) / 900);
    element.textContent = Math.round(goal * (1 - (1 - share) ** 3)).toLocaleString("en");
    if (share < 1) requestAnimationFrame(frame);
  }
  requestAnimationFrame(frame);
}

const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      watch.unobserve(entry.target);
      countUp(entry.target);
    }
  }
});
for (const element of document.querySelectorAll("[data-count]")) watch.observe(element);

/* if testimonials */
const voices = [
  ["“We moved over in an afternoon and have not looked back.”", "Maya, Lisbon"],
  ["“It simply does what it says. I wish more things did.”", "Jonas, Bergen"],
  ["“I asked a question on Sunday and had an answer on Sunday.”", "Aiko, Osaka"],
];
let voice = 0;

find("#next").addEventListener("click", () => {
  voice = (voice + 1) % voices.length;
  find("#quote").textContent = voices[voice][0];
  find("#who").textContent = voices[voice][1];
});
/* end */

/* if pricing */
let yearly = false;

find("#billing").addEventListener("click", () => {
  yearly = !yearly;
  find("#billing").textContent = yearly ? "Show monthly prices" : "Show yearly prices";
  find("#billing").setAttribute("aria-pressed", String(yearly));
  for (const price of document.querySelectorAll("[data-month]")) {
    price.textContent = String(Number(price.dataset.month) * (yearly ? 10 : 1));
  }
});
/* end */

find("#join").addEventListener("submit", (event) => {
  event.preventDefault();
  const email = find("#email").value.trim();
  const good = /^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(email);
  const answer = find("#answer");
  answer.className = good ? "good" : "bad";
  if (!good) {
    answer.textContent = "Please write an address such as you@example.com.";
    find("#email").focus();
    return;
  }
  const people = storage.read("people", []);
  storage.write("people", people.includes(email) ? people : [...people, email]);
  answer.textContent = people.includes(email) ? "You are on the list already. Thank you!" : "Thank you! We will write to " + email + ".";
  find("#join").reset();
});
