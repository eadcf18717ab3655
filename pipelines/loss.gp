# loss.gp: the loss of one or more runs over their tokens; plot.mk calls it.
#   gnuplot -e "runs='run other'; out='loss.png'" loss.gp
if (out[strlen(out)-3:*] eq ".svg") {
    set terminal svg size 900,560 font "sans,13" background rgb "white"
} else {
    set terminal pngcairo size 900,560 font "sans,11" background rgb "white"
}
set output out
set datafile separator ","
set datafile missing ""
set border 3 lc rgb "#808080"
set tics nomirror out
set grid lc rgb "#e4e4e4" lt 1
set key top right samplen 2
set xlabel "million tokens"
set ylabel "loss (nats a token)"
set format y "%.1f"
color(i) = word("#1f6fb4 #c8501e #2b8a3e #7a3fa0 #b0303f #5a6270", (i - 1) % 6 + 1)
rows(run, event) = sprintf("< awk -F, -v e=%s '$1 == e && $4 != \"\" && $4 != \"nan\"' %s/train.csv", event, run)

# The first steps are far above the rest: the axis ends where all but a few points lie.
top = 0
do for [i = 1:words(runs)] {
    stats rows(word(runs, i), "train") using 4 nooutput
    if (STATS_up_quartile + 1.5 > top) { top = STATS_up_quartile + 1.5 }
}
set yrange [*:top]
if (words(runs) == 1) { set title "loss of " . runs noenhanced font ",13" }

plot for [i = 1:words(runs)] rows(word(runs, i), "train") using ($3 / 1e6):4 with lines \
         lw 1 lc rgb color(i) title (words(runs) == 1 ? "training" : word(runs, i) . ", training") noenhanced, \
     for [i = 1:words(runs)] rows(word(runs, i), "valid") using ($3 / 1e6):4 with linespoints \
         lw 2.5 pt 7 ps 0.7 lc rgb (words(runs) == 1 ? "#202020" : color(i)) \
         title (words(runs) == 1 ? "held-out text" : word(runs, i) . ", held-out text") noenhanced
