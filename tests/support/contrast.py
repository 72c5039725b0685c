"""Whether what a page says can be read."""

# The texts whose contrast with what is behind them is below 4.5 to 1 (WCAG AA), as [contrast, text].
CONTRAST = """() => {
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const color = rgb(getComputedStyle(node).backgroundColor);
            if (color.length < 4 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const ratio = node => {
        const both = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
        return (Math.max(...both) + .05) / (Math.min(...both) + .05);
    };
    const texts = "h1, h2, h3, small, p, th, td, span, strong, kbd, figcaption, label, legend, select, "
        + "button, input";
    return [...document.querySelectorAll(texts)].filter(node => node.innerText && node.offsetParent)
        .map(node => [ratio(node), node.innerText]).filter(([found]) => found < 4.5);
}"""
