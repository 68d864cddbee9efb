// What the page does beyond plain HTML: live figures and keys. Everything else works without.
// It may run before the page is there, which comes in parts: keys are not to wait for the last.
"use strict";
(() => {
	const root = document.documentElement;
	root.classList.add("has-js");

	// morph makes one element like another, and leaves what is alike alone, so that what has
	// the focus keeps it.
	function morph(from, to) {
		if (from.nodeType === Node.TEXT_NODE) {
			if (from.data !== to.data) from.data = to.data;
			return;
		}
		for (const a of [...from.attributes]) {
			if (!to.hasAttribute(a.name)) from.removeAttribute(a.name);
		}
		for (const a of to.attributes) {
			if (from.getAttribute(a.name) !== a.value) from.setAttribute(a.name, a.value);
		}
		if (from.matches("input, textarea, select") && from === document.activeElement) return;
		children(from, to);
	}

	function children(from, to) {
		const byID = new Map();
		for (const c of from.children) if (c.id) byID.set(c.id, c);
		let at = from.firstChild;
		for (const want of [...to.childNodes]) {
			let have = null;
			if (want.nodeType === Node.ELEMENT_NODE && want.id) {
				have = byID.get(want.id) || null;
				byID.delete(want.id);
				if (have && have !== at) from.insertBefore(have, at);
				else if (have) at = at.nextSibling;
			} else if (at && at.nodeType === want.nodeType && at.nodeName === want.nodeName && !at.id) {
				have = at;
				at = at.nextSibling;
			}
			if (have && have.nodeName === want.nodeName) morph(have, want);
			else {
				if (have) have.remove();
				from.insertBefore(document.importNode(want, true), at);
			}
		}
		while (at) {
			const next = at.nextSibling;
			at.remove();
			at = next;
		}
		for (const gone of byID.values()) if (gone.parentNode === from) gone.remove();
	}

	// The stream: open while the tab is seen. Each frame says when the next comes.
	let staleAfter = 7000;
	let live = null, address = "", mark = null, markText = null;
	let source = null, heard = Date.now(), ended = false;
	const clock = t => new Date(t).toLocaleTimeString();
	function show(state, text) {
		if (!mark) return;
		mark.className = "mark " + state;
		if (markText.textContent !== text) markText.textContent = text;
	}
	function check() {
		if (ended) return;
		if (document.hidden) show("", "paused");
		else if (Date.now() - heard < staleAfter) show("live", "live");
		else show("stale", "stale since " + clock(heard));
	}
	function open() {
		if (source || ended || document.hidden) return;
		source = new EventSource(address);
		source.addEventListener("frame", e => {
			const frame = JSON.parse(e.data);
			heard = Date.now();
			staleAfter = 3000 + 2 * frame.next;
			if (frame.html !== undefined) {
				const page = new DOMParser().parseFromString("<div>" + frame.html + "</div>", "text/html");
				children(live, page.body.firstChild);
				choose();
			}
			check();
		});
		source.addEventListener("over", () => {
			ended = true;
			close();
			show("", "ended");
		});
		source.addEventListener("bye", () => {
			ended = true;
			close();
			show("stale", "signed out");
		});
		source.onerror = () => {
			if (source && source.readyState === EventSource.CLOSED) { // refused: try again, slowly
				close();
				setTimeout(open, 5000);
			}
		};
	}
	function close() {
		if (source) source.close();
		source = null;
	}
	function begin() {
		live = document.getElementById("live");
		if (document.readyState === "loading" && !(live && live.nextElementSibling)) { // it may not be whole
			setTimeout(begin, 50);
			return;
		}
		address = document.body.dataset.live;
		if (!live || !address) return;
		mark = document.getElementById("mark");
		markText = document.getElementById("mark-text");
		open();
		setInterval(check, 1000);
		document.addEventListener("visibilitychange", () => {
			if (document.hidden) close();
			else open();
			check();
		});
		addEventListener("pagehide", close);
		addEventListener("pageshow", open);
	}
	begin();

	// Rows are chosen by j and k.
	let chosen = "";
	const rows = () => [...document.querySelectorAll("main tbody tr")].filter(r => r.offsetParent && r.querySelector("a.row"));
	const keyOf = row => row.id || row.querySelector("a.row").href;
	function choose() {
		for (const row of rows()) row.classList.toggle("chosen", chosen !== "" && keyOf(row) === chosen);
	}
	function move(by) {
		const all = rows();
		if (all.length === 0) return;
		const at = all.findIndex(r => keyOf(r) === chosen);
		const row = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + by))];
		chosen = keyOf(row);
		choose();
		row.querySelector("a.row").focus({ preventScroll: true });
		row.scrollIntoView({ block: "nearest" });
	}
	document.addEventListener("keydown", e => {
		const keys = document.getElementById("keys");
		const field = e.target.closest("input, textarea, select");
		if (e.key === "Escape" && field) field.blur();
		if (field && field.type !== "checkbox" || e.ctrlKey || e.metaKey || e.altKey || !keys || keys.open) return;
		const go = document.querySelector('a[data-key="' + CSS.escape(e.key) + '"]');
		const focus = { "/": "filter", m: "find" }[e.key];
		if (e.key === "?") keys.showModal();
		else if (e.key === "j") move(1);
		else if (e.key === "k") move(-1);
		else if (e.key === "x") {
			const row = rows().find(r => keyOf(r) === chosen), box = row && row.querySelector("input[type=checkbox]");
			if (box) box.click();
		} else if (focus && document.getElementById(focus)) {
			document.getElementById(focus).focus();
			document.getElementById(focus).select();
		} else if (go) go.click();
		else return;
		e.preventDefault();
	});

	// One click is one act.
	document.addEventListener("submit", e => {
		if (e.target.method !== "post") return;
		if (e.target.dataset.sent) e.preventDefault();
		e.target.dataset.sent = "yes";
		setTimeout(() => { delete e.target.dataset.sent; }, 5000);
	});
	// All rows are marked at once.
	document.addEventListener("change", e => {
		if (e.target.id !== "every") return;
		for (const box of document.querySelectorAll("input[name=id]")) box.checked = e.target.checked;
	});
})();
