
// The element <holitom-map data="..."> draws an inspection inside another page, with its own styles; `HOLITOM_MAP` is its HTML.
if (!customElements.get("holitom-map")) customElements.define("holitom-map", class extends HTMLElement {
  static observedAttributes = ["data"];
  connectedCallback() { this.draw(); }
  attributeChangedCallback() { if (this.isConnected) this.draw(); }
  draw() {
    const text = this.getAttribute("data");
    if (!text || text === this.drawn) return;
    this.drawn = text;
    const root = this.shadowRoot || this.attachShadow({ mode: "open" });
    root.innerHTML = HOLITOM_MAP;
    drawMap(root, JSON.parse(text));
  }
});
