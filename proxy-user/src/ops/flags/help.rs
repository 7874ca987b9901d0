//! `--help`: upstream's flags and ours, grouped, with defaults.

use super::Program;

const WIDTH: usize = 110;

pub(super) fn render<O: Default>(program: &Program<O>) -> String {
    let mut defaults = O::default();
    let mut groups: Vec<(&str, Vec<(String, String)>)> = Vec::new();
    for flag in program.flags.iter().filter(|flag| !flag.hidden) {
        let field = (flag.field)(&mut defaults);
        let short = flag.short.map_or("      ".to_owned(), |short| format!("  -{short}, "));
        let kind = match field.kind() {
            "bool" => String::new(),
            kind => format!(" {kind}"),
        };
        let default = match field.show() {
            shown if shown.is_empty() => String::new(),
            shown => format!(" (default {shown})"),
        };
        let row = (format!("{short}--{}{kind}", flag.name), format!("{}{default}", flag.help));
        match groups.iter_mut().find(|(title, _)| *title == flag.group) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((flag.group, vec![row])),
        }
    }
    let name = program.name;
    let mut text = format!(
        "{}\n\nUsage:\n  {name} [flags]\n  {name} flows|doctor|set [flags]   ask the running process; see `{name} flows --help`\n",
        program.about
    );
    for (title, rows) in groups {
        text.push_str(&format!("\n{title}\n"));
        for (left, right) in rows {
            text.push_str(&left);
            text.push('\n');
            wrap(&right, &mut text);
        }
    }
    text.push_str(
        "\n  -h, --help\n          this text\n      --version\n          commit, eBPF object and features\n",
    );
    text
}

fn wrap(text: &str, out: &mut String) {
    const INDENT: &str = "          ";
    let mut line = INDENT.to_owned();
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH && line != INDENT {
            out.push_str(&line);
            out.push('\n');
            line = INDENT.to_owned();
        } else if line != INDENT {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
