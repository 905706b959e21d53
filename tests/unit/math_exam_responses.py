r"""Whole responses of the exam: where the answer is, and how models put it. The notation is math_exam's."""

from __future__ import annotations

RESPONSES = r"""
topic: thinking
gold 5
++ <think>2+3</think> The result is \boxed{5}.
++ <think>\boxed{4}? no.</think>\boxed{5}
++ <think>first</think><answer>5</answer>
++ <think>first \boxed{7}</think><answer>\boxed{5}</answer>
++ reasoning without the opening tag, \boxed{6}</think> So \boxed{5}
++ <think></think>\boxed{5}
++ <think>a</think>\boxed{4}<think>b</think>\boxed{5}
-- <think>so \boxed{5}
-- <think>so \boxed{5}</think>
-- <think>so the answer is 5</think> Done.
-- <think>5</think><answer>6</answer>
-- <think><answer>5</answer></think> I am not sure.
-- <think>a</think>\boxed{5}<think>b</think>\boxed{4}
-- <think>a</think>\boxed{5}<think>wait, it may be
-- \boxed{5}</think>
-- <think>a</think> \boxed{4} <think> \boxed{5} </think>

topic: answer tags
gold \frac{1}{2}
++ <answer>0.5</answer>
++ <answer>\boxed{\frac12}</answer>
++ <answer>The answer is \frac{1}{2}.</answer>
++ <answer>$\frac{1}{2}$</answer>
++ <think>..</think>⏎<answer>⏎1/2⏎</answer>⏎
++ \boxed{3} <answer>1/2</answer>
++ <answer>first \boxed{4} then \boxed{1/2}</answer>
++ <answer>4</answer> No: <answer>1/2</answer>
-- <answer>1/2</answer><answer>3</answer>
-- <answer>\boxed{}</answer>
-- <answer></answer>
-- <answer>1/2 or 1/3</answer>
-- <answer>\boxed{1/3}</answer> \boxed{1/2}
-- <answer>1/2
-- <answer>\boxed{1/2</answer>

topic: boxes
gold 7
++ \boxed{7}
++ First \boxed{3}, and then \boxed{7}.
++ So $\boxed 7$.
++ \boxed7
++ $$\boxed{\,7\,}$$
++ \boxed {7}
++ \boxed{\boxed{7}}
++ \boxed{x = 7}
++ \[\boxed{\text{7 apples}}\]
++ The answer is 6, no: \boxed{7}
++ **\boxed{7}**
-- \boxed{7} and so \boxed{8}
-- \boxed{}
-- \boxed{ }
-- \boxed{7
-- \boxed{7} but finally \boxed{
-- \boxed{7} and in the end \boxed{}
-- boxed{7}
-- \boxed{7} or \boxed{8}
-- \boxed{6} The answer is 7.
-- \boxed{\text{no answer}}
-- \boxed{7, 8}

topic: phrases
gold 12
++ The answer is 12.
++ So the answer is 12
++ Answer: 12
++ **Answer:** 12
++ Final answer: 12
++ The final answer is $12$.
++ the answer is: 12.
++ Therefore, the answer is **12**.
++ The answer is 10. No wait, the answer is 12.
++ Answer: 12 apples
++ The answer is not 10. The answer is 12.
++ The correct answer is 12, because 3 times 4 is 12.
++ The answer is $x = 12$.
++ ANSWER: 12
++ The answer is \(12\).
++ The answer is 12. This follows from the formula 3*4.
++ The answer is 12. The answer is not 13.
++ **Final Answer**⏎⏎$12$
++ The answer is:⏎\[ 12 \]
-- The answer is not 12.
-- The answer isn't 12.
-- 12
-- We find 12 apples here.
-- The answer is 12 or 13.
-- The answer is 12. Sorry, the answer is 13.
-- The answer cannot be 12.
-- I know that 3 times 4 makes 12.
-- The answer is between 11 and 12.
-- Answer:
-- The answer is probably 12, or maybe 13.
-- The answer is unknown, but 12 is nice.
-- If the answer is 12 then x is 3.
-- x = 12
-- The answer is about 12.
-- Answer: 1, 2, 3, 12

topic: model phrasings
gold 18
++ Janet sells 16 - 3 - 4 = 9 eggs a day.⏎She makes 9 * $2 = $18 every day.⏎⏎The final answer is \boxed{18}.
++ She makes $\boxed{\$18}$ every day at the farmers' market.
++ **Step 1:** 16-3-4=9⏎**Step 2:** 9*2=18⏎⏎**Answer:** $18
++ She makes 9*2=18 dollars. The answer is $18.
++ <think>⏎16-7=9, times 2⏎</think>⏎⏎Janet makes **\$18** a day.⏎⏎\[⏎\boxed{18 \text{ dollars}}⏎\]
++ ### Final Answer⏎⏎\[\boxed{18}\]
++ Therefore, Janet makes $\boxed{18}$ dollars every day.
++ \[ 9 \times 2 = \boxed{18} \]
++ <answer>Janet makes $18 every day.</answer>
++ #### 18
-- She makes \boxed{9} eggs, that is 18 dollars.
-- The answer is $1,8.
-- She has 18 eggs.⏎⏎\boxed{16}
-- Every day she makes \boxed{18 \text{ or } 20} dollars.
-- #### 19
gold \frac{14}{3}
++ Thus $f(-2)+f(-1)+f(0)=\frac{14}{3}$. The final answer is $\boxed{\dfrac{14}{3}}$.
++ $\boxed{\frac{14}{3}}$. I hope it is correct.
++ Final Answer: The final answer is $\frac{14}{3}$. I hope it is correct.
++ So the sum equals $$\boxed{4\frac{2}{3}}.$$
-- Final Answer: The final answer is $\frac{3}{14}$. I hope it is correct.
-- The final answer is $\boxed{4.67}$.
gold 204
++ The walk takes 204 minutes, coffee included.⏎⏎\(\boxed{204}\)
++ **204**⏎⏎Therefore, the answer is $\boxed{204}$ minutes.
++ Thus $m+n = 200 + 4 = \boxed{204}$.
++ The answer is $\boxed{\textbf{204}}$
-- The total is $\boxed{024}$.
-- The answer is 204 for $t=24$, hence \boxed{240}.
gold 025
++ Hence the answer is $\boxed{25}$.
++ Hence the answer is $\boxed{025}$.
-- Hence the answer is $\boxed{250}$.
gold \left( 3, \frac{\pi}{2} \right)
++ In polar coordinates: $\boxed{\left( 3, \frac{\pi}{2} \right)}$.
++ So $(r,\theta) = \boxed{(3,\pi/2)}$.
++ The answer is $(3, \frac{\pi}{2})$.
-- So $(r,\theta) = \boxed{(3,\pi/3)}$.
gold p - q
++ So the sum is $\boxed{p - q}$.
++ \boxed{-q+p}
++ <think>hm</think>**Answer:** $p - q$
-- \boxed{q - p}
-- \boxed{p - q + 1}
gold 1,-2
++ The roots are $x = 1$ and $x = -2$.⏎⏎\boxed{x = 1 \text{ and } x = -2}
++ The answer is $x=1$ and $x=-2$.
++ **Final Answer:** \(x = 1, -2\)
-- \boxed{x = 1}
-- \boxed{x=1} and \boxed{x=-2}
gold \text{Navin}
++ <think>..</think>⏎**Answer:** Navin
++ The student with the highest speed is \boxed{\text{Navin}}.
++ The answer is Navin.
-- \boxed{\text{Angela}}
-- The answer is Navin or Angela.

topic: thinking
gold 8
++ <think>⏎ok⏎</think>⏎⏎The answer is \boxed{8}.
++ <think>I wonder. The answer is 9.</think>The answer is 8.
++ Some words <think>\boxed{9}</think> \boxed{8}
-- \boxed{8} <think> hmm
-- <think>\boxed{8}</think> The value is 8 I believe.
-- <think></think>
-- </think>
topic: answer tags
gold 3
++ <answer> 3 </answer>
++ <answer>$3$.</answer>
++ <answer>The final answer is \boxed{3}</answer>
++ <answer>The final answer is 3 apples.</answer>
++ <answer>x = 3</answer>
++ <answer>$x = 3$</answer>
++ <answer>Tom has 3 apples.</answer>
-- <answer>Tom has 3 apples and 4 pears.</answer>
-- <answer>I do not know</answer>
-- <answer>Not 3</answer>
-- <answer>3 or 4</answer>
topic: boxes
gold \frac{a}{b}
++ $\boxed{\frac{a}{b}}$
++ \boxed{ \dfrac{ a }{ b } }
++ \[⏎\boxed{⏎\frac{a}{b}⏎}⏎\]
++ \boxed{\boxed{\frac{a}{b}}}
-- \boxed{\frac{a}{b}
-- \boxed{\frac{b}{a}}
-- \boxed{\frac{a}{b}}}\boxed{
topic: phrases
gold 40
++ Thus the answer is 40%.
++ The answer is $\boxed{40}$.
++ My final answer is 40.
++ The answer to the question is 40.
++ The answer: 40
++ Hence our answer is $40$ apples.
++ **The answer is 40.**
++ The answer is therefore 40.
++ Final Answer: **40**
++ The answer is 40, since 4 times 10 is 40.
++ The answer should be 40.
++ I think the answer is 40.
++ The answer is $\text{40 cm}$.
++ The answer is 40!⏎
-- The answer is not $40$, it is larger.
-- Is the answer 40?
-- I don't think the answer is 40.
-- The answer might be 40.
-- The answer is 40 or so.
-- The answer is either 40 or 50.
-- The answer is more than 40.
-- The answer is $40$ or $50$.
-- The answer is 30. I checked it with 40.
-- Perhaps the answer is 40.
-- The answer is never 40.
-- answer 40
-- The answer, 40, was wrong.
-- Suppose the answer is 40. Then x is 3.
topic: model phrasings
gold 540
++ James runs 3*3=9 sprints a week, so he runs 9*60=540 meters.⏎#### 540
++ Therefore, James runs a total of **540 meters** per week.⏎⏎\[\boxed{540}\]
++ **Answer: 540 meters**
++ Final answer: $540$ meters per week.
++ The answer is 540 meters.
++ <answer>540 meters a week</answer>
++ ### Answer⏎540
-- Therefore, James runs 540 meters. But the answer is 180.
-- <answer>60 meters each, 540 in all</answer>
gold \frac{9}{256}
++ So $$P = \boxed{\dfrac{9}{256}}.$$
++ The probability is $\boxed{\frac{9}{256} \approx 0.035}$.
++ $\boxed{P = \frac{9}{256}}$
++ **Final Answer**⏎The final answer is $\boxed{\frac{9}{256}}$
++ \boxed{0.03515625}
-- \boxed{0.035}
-- \boxed{\frac{9}{265}}
gold 70
++ Since $\angle ABC = 70^\circ$, the answer is $\boxed{70^\circ}$.
++ $\angle BAC = \boxed{70}$ degrees
++ \boxed{\angle ABC = 70^\circ}
-- \boxed{110^\circ}
gold 2x+3
++ Thus $f(x) = \boxed{2x+3}$.
++ \boxed{f(x)=2x+3}
++ \boxed{y = 2x + 3}
++ The answer is $2x+3$.
-- \boxed{2x-3}
-- \boxed{2x+3=0}
gold 16
++ \boxed{16 \text{ square units}}
++ \boxed{A = 16\,\text{cm}^2}
++ The area is $4^2=\boxed{16}$.
++ \boxed{4^2 = 16}
++ \boxed{4\times4=16}
-- \boxed{4^2 = 8}

topic: thinking
gold 6
++ <think>I get \boxed{5}. Hmm, rather 6.</think>⏎⏎**6** is it: \boxed{6}
++ <think>a</think>⏎<answer>6</answer>⏎
++ The answer is 5.</think>The answer is 6.
-- <think>The answer is 6.</think>
-- <think>The answer is 6.
-- <answer>6</answer><think>more
-- <think>a</think><think>\boxed{6}
topic: boxes
gold 6
++ \boxed{5}, no, \boxed{6}.
++ $\boxed6.$
++ \boxed{6}\boxed{\boxed{6}}
++ \boxed{\text{Answer: } 6}
++ \boxed{6}{}
-- \boxed{6}, no, \boxed{5}.
-- \boxed{6} \boxed{
-- \boxed
-- \\boxed{5}
-- box 6
topic: phrases
gold \frac{3}{5}
++ The probability is $3/5$. So the answer is $\frac{3}{5}$.
++ Answer: $\dfrac{3}{5}$
++ Answer: 0.6
++ The answer is 3/5.
++ So, the final answer is: $$\frac{3}{5}$$
++ **Answer**: $\frac35$.
++ The answer is then $\frac{6}{10} = \frac{3}{5}$.
-- The answer is 3.
-- Answer: 5/3
-- The answer is $\frac{3}{5}$ or $\frac{2}{5}$.
-- The answer is definitely not $\frac{3}{5}$.
-- It's false that the answer is 3/5.
-- My first answer was wrong, 3/5 is better.
-- The answer is roughly 3/5.
-- Whether the answer is 3/5 we cannot say.
topic: model phrasings
gold 33
++ Let's see: 3*11 = 33.⏎⏎So, the number of apples is **33**.⏎⏎$\boxed{33}$
++ ⏎⏎**Final Answer:** The final answer is $\boxed{33}$
++ Thus, $AB + CD = 15 + 18 = \boxed{33}$.
++ So the sum is $\boxed{33}$. $\blacksquare$
++ The sum is \fbox{33}.
++ Answer:⏎33
++ The final answer is: $\boxed{033}$
++ Final answer: 33 apples.
++ <answer>⏎The total is $11 \cdot 3 = 33$.⏎</answer>
-- The total is 33, as I showed; thus \boxed{34}.
-- <answer>The total is 11 and then 33.</answer>
-- ### Answer⏎It is 34
"""
