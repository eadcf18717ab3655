# loss.gp: the loss of one or more runs; plot.mk calls it.
#   gnuplot -e "runs='run other'; by='tokens'; out='loss.png'" loss.gp
# by: tokens, seconds, or both, a panel each.
if (!exists("by")) { by = "tokens" }
width = by eq "both" ? 1300 : 900
if (out[strlen(out)-3:*] eq ".svg") {
    set terminal svg size width,560 font "sans,13" background rgb "white"
} else {
    set terminal pngcairo size width,560 font "sans,11" background rgb "white"
}
set output out
set datafile separator ","
set datafile missing ""
set border 3 lc rgb "#808080"
set tics nomirror out
set grid lc rgb "#e4e4e4" lt 1
set key top right samplen 2
set ylabel "loss (nats a token)"
set format y "%.1f"
n = words(runs)
color(i) = word("1f6fb4 c8501e 2b8a3e 7a3fa0 b0303f 5a6270", (i - 1) % 6 + 1)
# Of several runs the training losses, noisy and one over the other, stay in the background.
faint(i) = (n == 1 ? "#" : "#a0") . color(i)
rows(run, event) = sprintf("< awk -F, -v e=%s '$1 == e && $4 != \"\" && $4 != \"nan\"' %s/train.csv", event, run)
name(i) = word(runs, i)

# The first steps are far above the rest: the axis ends where all but a few points lie.
top = 0
do for [i = 1:n] {
    stats rows(name(i), "train") using 4 nooutput
    above = STATS_up_quartile + (n == 1 ? 1.5 : 0.8)
    if (above > top) { top = above }
}
set yrange [*:top]
if (n == 1) { set title "loss of " . runs noenhanced font ",13" }

if (by eq "both") { set multiplot layout 1,2 }
do for [axis in by eq "both" ? "tokens seconds" : by] {
    at = axis eq "seconds" ? 10 : 3
    unit = axis eq "seconds" ? 1 : 1e6
    set xlabel axis eq "seconds" ? "seconds of training" : "million tokens"
    plot for [i = 1:n] rows(name(i), "train") using (column(at) / unit):4 with lines \
             lw 1 lc rgb faint(i) title (n == 1 ? "training" : name(i) . ", training") noenhanced, \
         for [i = 1:n] rows(name(i), "valid") using (column(at) / unit):4 with linespoints \
             lw 2.5 pt 7 ps 0.7 lc rgb (n == 1 ? "#202020" : "#" . color(i)) \
             title (n == 1 ? "held-out text" : name(i) . ", held-out text") noenhanced
}
if (by eq "both") { unset multiplot }
