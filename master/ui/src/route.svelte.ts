// Where the page is: `#/view/rest?key=value`, so that every view is a link.

function parse() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view: view || "home", rest: rest.map(decodeURIComponent).join("/"), query: new URLSearchParams(query || "") };
}

export const route = $state({ at: parse() });
addEventListener("hashchange", () => { route.at = parse(); });

export function link(view: string, rest = "", query: Record<string, string> = {}): string {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  return `#/${view}${rest ? "/" + encodeURIComponent(rest) : ""}${text ? "?" + text : ""}`;
}

export function go(view: string, rest = "", query: Record<string, string> = {}): void {
  location.hash = link(view, rest, query);
}
